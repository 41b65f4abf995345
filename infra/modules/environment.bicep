// The environment that a custom pool and the gateway run in.

@description('Name of the environment.')
param name string

@description('Region.')
param location string

@description('Tags.')
param tags object

@description('Subnet of a virtual network of yours; empty for one that Azure manages.')
param subnetId string

resource environment 'Microsoft.App/managedEnvironments@2025-10-02-preview' = {
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
  }
}

@description('Resource id.')
output id string = environment.id
