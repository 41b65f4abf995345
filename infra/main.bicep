// A session pool for cci-plugins, with what belongs to it. README.md beside this file says what each
// choice creates and costs, and how to deploy it with `az` or `azd`.
targetScope = 'resourceGroup'

@description('Python pool that Azure runs with its own MCP server, or custom containers of an image of your own.')
@allowed(['python', 'custom'])
param kind string = 'python'

@description('Region of all resources. Only some regions have session pools with an MCP server.')
param location string = resourceGroup().location

@description('First part of every name: lower-case letters and digits, a letter first. Also the value of the tag cci-plugins.')
@minLength(2)
@maxLength(12)
param name string = 'cci'

@description('Last part of every name, which makes it unique: lower-case letters and digits.')
@minLength(3)
@maxLength(8)
param suffix string = take(uniqueString(resourceGroup().id), 6)

@description('Tags of all resources, beside cci-plugins.')
param tags object = {}

@description('Object id of who may run code in the pool and use the storage; empty for nobody.')
param principalId string = ''

@description('What principalId is.')
@allowed(['User', 'Group', 'ServicePrincipal'])
param principalType string = 'User'

@description('Most sessions at once.')
@minValue(2)
@maxValue(600)
param maxSessions int = 10

@description('Sessions of a custom pool that are started before they are asked for. Each is billed.')
@minValue(1)
param readySessions int = 1

@description('Seconds without a request after which a session ends.')
@minValue(300)
@maxValue(3600)
param cooldownSeconds int = 600

@description('Let code in the sessions reach the network. Links to files in the storage need it.')
param egress bool = false

@description('Custom pool: the image with its tag, such as <registry>.azurecr.io/cci-session:1. While it is empty, everything but the pool and the gateway is created.')
param image string = ''

@description('Custom pool: subnet of a virtual network of yours, delegated to Microsoft.App/environments; empty for a network that Azure manages.')
param subnetId string = ''

@description('Create a storage account for files that are too large to travel with the code.')
param deployStorage bool = true

@description('Custom pool: create the gateway, which gives Foundry and other MCP clients an endpoint with a key.')
param deployGateway bool = false

@description('Key that clients of the gateway send, of at least 16 characters. By default every deployment makes a new one.')
@secure()
param serveKey string = ''

@description('Secret that signs the gateway\'s environment ids. By default every deployment makes a new one.')
@secure()
param sessionSecret string = ''

@description('Leave it out: it is the serveKey where none is given.')
@secure()
param newServeKey string = newGuid()

@description('Leave it out: it is the sessionSecret where none is given.')
@secure()
param newSessionSecret string = newGuid()

@description('Leave it out: it makes the gateway start anew, since running replicas do not see new secrets.')
param revision string = utcNow('yyyyMMddHHmmss')

@description('Create a Foundry account with a project and a model.')
param deployFoundry bool = false

@description('Model of the Foundry project. Which ones there are differs by region and time.')
param modelName string = 'gpt-4.1-mini'

@description('Version of the model; empty for the region\'s default.')
param modelVersion string = ''

@description('Kind of the model deployment, which says where its requests may be answered.')
@allowed(['GlobalStandard', 'DataZoneStandard', 'Standard'])
param modelSku string = 'GlobalStandard'

@description('Most tokens a minute of the model, in thousands.')
@minValue(1)
param modelCapacity int = 10

@description('Python pool: its MCP key, for the Foundry connection. Without it no connection is created; `cci foundry connect` makes one afterwards, and fetches the key itself.')
@secure()
param mcpKey string = ''

var custom = kind == 'custom'
var withPool = !custom || !empty(image)
var withGateway = deployGateway && custom && !empty(image)
var container = 'cci-files'
var allTags = union(tags, { 'cci-plugins': name })
var gatewayKey = empty(serveKey) ? newServeKey : serveKey
var gatewaySecret = empty(sessionSecret) ? newSessionSecret : sessionSecret

module identity 'modules/identity.bicep' = if (custom) {
  name: 'cci-identity'
  params: {
    name: '${name}-id-${suffix}'
    location: location
    tags: allTags
  }
}

module registry 'modules/registry.bicep' = if (custom) {
  name: 'cci-registry'
  params: {
    name: '${name}acr${suffix}'
    location: location
    tags: allTags
    pullPrincipalId: identity!.outputs.principalId
  }
}

module environment 'modules/environment.bicep' = if (custom) {
  name: 'cci-environment'
  params: {
    name: '${name}-env-${suffix}'
    location: location
    tags: allTags
    subnetId: subnetId
  }
}

module pool 'modules/pool.bicep' = if (withPool) {
  name: 'cci-pool'
  params: {
    name: '${name}pool${suffix}'
    location: location
    tags: allTags
    kind: kind
    maxSessions: maxSessions
    readySessions: readySessions
    cooldownSeconds: cooldownSeconds
    egress: egress
    image: image
    environmentId: custom ? environment!.outputs.id : ''
    registryServer: custom ? registry!.outputs.loginServer : ''
    identityId: custom ? identity!.outputs.id : ''
  }
}

module poolRoles 'modules/pool-roles.bicep' = if (withPool && !empty(principalId)) {
  name: 'cci-pool-roles'
  params: {
    poolName: pool!.outputs.name
    principalId: principalId
    principalType: principalType
  }
}

module storage 'modules/storage.bicep' = if (deployStorage) {
  name: 'cci-storage'
  params: {
    name: '${name}st${suffix}'
    location: location
    tags: allTags
    containerName: container
  }
}

module storageRoles 'modules/storage-roles.bicep' = if (deployStorage && !empty(principalId)) {
  name: 'cci-storage-roles'
  params: {
    accountName: storage!.outputs.name
    containerName: container
    principalId: principalId
    principalType: principalType
  }
}

module gatewayRoles 'modules/pool-roles.bicep' = if (withGateway) {
  name: 'cci-gateway-roles'
  params: {
    poolName: pool!.outputs.name
    principalId: identity!.outputs.principalId
    principalType: 'ServicePrincipal'
  }
}

module gateway 'modules/gateway.bicep' = if (withGateway) {
  name: 'cci-gateway'
  params: {
    name: '${name}-gateway-${suffix}'
    location: location
    tags: allTags
    image: image
    environmentId: environment!.outputs.id
    registryServer: registry!.outputs.loginServer
    identityId: identity!.outputs.id
    identityClientId: identity!.outputs.clientId
    poolEndpoint: pool!.outputs.endpoint
    serveKey: gatewayKey
    sessionSecret: gatewaySecret
    revision: revision
  }
  dependsOn: [gatewayRoles]
}

module foundry 'modules/foundry.bicep' = if (deployFoundry) {
  name: 'cci-foundry'
  params: {
    accountName: '${name}-foundry-${suffix}'
    projectName: '${name}-project'
    location: location
    tags: allTags
    modelName: modelName
    modelVersion: modelVersion
    modelSku: modelSku
    modelCapacity: modelCapacity
    principalId: principalId
    principalType: principalType
    mcpEndpoint: withGateway ? gateway!.outputs.mcpEndpoint : (withPool ? pool!.outputs.mcpEndpoint : '')
    mcpKey: withGateway ? gatewayKey : (custom ? '' : mcpKey)
  }
}

@description('Which pool the settings below are for.')
output CCI_POOL string = custom ? 'custom' : 'platform'

@description('Where the pool is reached with a sign-in.')
output AZURE_SESSION_POOL_ENDPOINT string = withPool ? pool!.outputs.endpoint : ''

@description('Where MCP clients reach the pool with a key: its own MCP server, or the gateway. Empty where there is neither.')
output AZURE_SESSION_POOL_MCP_ENDPOINT string = withGateway ? gateway!.outputs.mcpEndpoint : (withPool ? pool!.outputs.mcpEndpoint : '')

@description('Resource id of the pool.')
output AZURE_SESSION_POOL_RESOURCE_ID string = withPool ? pool!.outputs.id : ''

@description('Name of the storage account.')
output AZURE_STORAGE_ACCOUNT string = deployStorage ? storage!.outputs.name : ''

@description('Name of the container in it.')
output AZURE_STORAGE_CONTAINER string = deployStorage ? container : ''

@description('Login server of the registry that the image is pushed to.')
output AZURE_CONTAINER_REGISTRY_ENDPOINT string = custom ? registry!.outputs.loginServer : ''

@description('Resource group of all this.')
output AZURE_RESOURCE_GROUP string = resourceGroup().name

@description('Endpoint of the Foundry project.')
output AZURE_AI_PROJECT_ENDPOINT string = deployFoundry ? foundry!.outputs.projectEndpoint : ''

@description('Name of the model deployment in it.')
output AZURE_AI_MODEL_DEPLOYMENT_NAME string = deployFoundry ? foundry!.outputs.modelDeploymentName : ''
