// Storage for files on their way in and out of sessions, and for saved sessions. Nothing in it is
// public, and account keys open nothing. A file is deleted a day after it was written, a saved
// session later.

@description('Name of the account: lower-case letters and digits.')
param name string

@description('Region.')
param location string

@description('Tags.')
param tags { *: string }

@description('Name of the container.')
param containerName string

@description('Name of the container for saved sessions.')
param checkpointContainerName string

@description('Days after which a saved session is deleted.')
param checkpointDays int

resource account 'Microsoft.Storage/storageAccounts@2025-01-01' = {
  name: name
  location: location
  tags: tags
  kind: 'StorageV2'
  sku: { name: 'Standard_LRS' }
  properties: {
    accessTier: 'Hot'
    allowBlobPublicAccess: false
    allowCrossTenantReplication: false
    allowSharedKeyAccess: false
    defaultToOAuthAuthentication: true
    minimumTlsVersion: 'TLS1_2'
    supportsHttpsTrafficOnly: true
  }
}

resource blobs 'Microsoft.Storage/storageAccounts/blobServices@2025-01-01' = {
  parent: account
  name: 'default'
  properties: {}
}

resource container 'Microsoft.Storage/storageAccounts/blobServices/containers@2025-01-01' = {
  parent: blobs
  name: containerName
  properties: { publicAccess: 'None' }
}

resource checkpoints 'Microsoft.Storage/storageAccounts/blobServices/containers@2025-01-01' = {
  parent: blobs
  name: checkpointContainerName
  properties: { publicAccess: 'None' }
}

resource lifecycle 'Microsoft.Storage/storageAccounts/managementPolicies@2025-01-01' = {
  parent: account
  name: 'default'
  properties: {
    policy: {
      rules: [
        {
          name: 'delete-after-a-day'
          enabled: true
          type: 'Lifecycle'
          definition: {
            actions: {
              baseBlob: {
                delete: { daysAfterModificationGreaterThan: 1 }
              }
            }
            filters: {
              blobTypes: ['blockBlob']
              prefixMatch: ['${containerName}/']
            }
          }
        }
        {
          name: 'delete-checkpoints'
          enabled: true
          type: 'Lifecycle'
          definition: {
            actions: {
              baseBlob: {
                delete: { daysAfterModificationGreaterThan: checkpointDays }
              }
            }
            filters: {
              blobTypes: ['blockBlob']
              prefixMatch: ['${checkpointContainerName}/']
            }
          }
        }
      ]
    }
  }
  dependsOn: [container, checkpoints]
}

@description('Name of the account.')
output name string = account.name
