// The environment that a custom pool and the gateway run in, and its logs.

@description('Name of the environment.')
param name string

@description('Region.')
param location string

@description('Tags.')
param tags { *: string }

@description('Subnet of a virtual network of yours; empty for one that Azure manages.')
param subnetId string

@description('Send the logs of the containers to a Log Analytics workspace.')
param deployLogs bool

@description('Name of that workspace.')
param workspaceName string

resource environment 'Microsoft.App/managedEnvironments@2026-07-01' = {
  name: name
  location: location
  tags: tags
  properties: {
    workloadProfiles: [
      {
        name: 'Consumption'
        workloadProfileType: 'Consumption'
      }
    ]
    vnetConfiguration: empty(subnetId) ? null : { infrastructureSubnetId: subnetId }
    appLogsConfiguration: deployLogs ? { destination: 'azure-monitor' } : null
  }
}

resource workspace 'Microsoft.OperationalInsights/workspaces@2025-02-01' = if (deployLogs) {
  name: workspaceName
  location: location
  tags: tags
  properties: {
    sku: { name: 'PerGB2018' }
    retentionInDays: 30
  }
}

// The only version with categoryGroup.
#disable-next-line use-recent-api-versions
resource logs 'Microsoft.Insights/diagnosticSettings@2021-05-01-preview' = if (deployLogs) {
  name: 'cci-logs'
  scope: environment
  properties: {
    workspaceId: workspace.id
    logs: [
      {
        categoryGroup: 'allLogs'
        enabled: true
      }
    ]
  }
}

@description('Resource id.')
output id string = environment.id
