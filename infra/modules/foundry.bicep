// A Foundry account with a project and a model, and the connection to the pool's MCP server where its
// key is given. Account keys open nothing: who uses it signs in.

@description('Name of the account, and of its subdomain.')
param accountName string

@description('Name of the project.')
param projectName string

@description('Region.')
param location string

@description('Tags.')
param tags { *: string }

@description('Model.')
param modelName string

@description('Version of the model; empty for the region\'s default.')
param modelVersion string

@description('Kind of the model deployment.')
@allowed(['GlobalStandard', 'DataZoneStandard', 'Standard'])
param modelSku string

@description('Most tokens a minute, in thousands.')
param modelCapacity int

@description('Object id of who may use the project; empty for nobody.')
param principalId string

@description('What principalId is.')
@allowed(['User', 'Group', 'ServicePrincipal'])
param principalType string

@description('MCP endpoint that the project connects to.')
param mcpEndpoint string

@description('Create the connection to that endpoint.')
param deployConnection bool

@description('Key of that endpoint.')
@secure()
param mcpKey string

// Foundry User, which was called Azure AI User before.
var foundryUser = '53ca6127-db72-4b80-b1b0-d745d6d5456d'

resource account 'Microsoft.CognitiveServices/accounts@2025-12-01' = {
  name: accountName
  location: location
  tags: tags
  kind: 'AIServices'
  sku: { name: 'S0' }
  identity: { type: 'SystemAssigned' }
  properties: {
    allowProjectManagement: true
    customSubDomainName: accountName
    disableLocalAuth: true
  }
}

resource project 'Microsoft.CognitiveServices/accounts/projects@2025-12-01' = {
  parent: account
  name: projectName
  location: location
  tags: tags
  identity: { type: 'SystemAssigned' }
  properties: {
    displayName: projectName
    description: 'Agents with a code interpreter.'
  }
}

resource model 'Microsoft.CognitiveServices/accounts/deployments@2025-12-01' = {
  parent: account
  name: modelName
  tags: tags
  sku: {
    name: modelSku
    capacity: modelCapacity
  }
  properties: {
    model: {
      format: 'OpenAI'
      name: modelName
      version: empty(modelVersion) ? null : modelVersion
    }
  }
  // The account takes one change at a time.
  dependsOn: [project]
}

resource connection 'Microsoft.CognitiveServices/accounts/projects/connections@2025-12-01' = if (deployConnection) {
  parent: project
  name: 'code-interpreter'
  properties: {
    authType: 'CustomKeys'
    category: 'RemoteTool'
    target: mcpEndpoint
    credentials: {
      keys: { 'x-ms-apikey': mcpKey }
    }
  }
}

resource use 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (!empty(principalId)) {
  name: guid(project.id, principalId, foundryUser)
  scope: project
  properties: {
    principalId: principalId
    principalType: principalType
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', foundryUser)
  }
}

@description('Endpoint of the project.')
output projectEndpoint string = 'https://${account.properties.customSubDomainName}.services.ai.azure.com/api/projects/${project.name}'

@description('Name of the model deployment.')
output modelDeploymentName string = model.name

@description('Resource id of the connection; empty without one.')
output connectionId string = deployConnection ? connection.id : ''
