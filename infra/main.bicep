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
param tags { *: string } = {}

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

@description('Custom pool: CPU cores of a session\'s container.')
param cpu string = '1'

@description('Custom pool: memory of a session\'s container.')
param memory string = '2Gi'

@description('Custom pool: variables for the code in the sessions, by name.')
param env { *: string } = {}

@description('Custom pool: names of further variables, whose values are in secretValues.')
param secretNames string[] = []

@description('Custom pool: the values of secretNames, by name. The code can read them.')
@secure()
param secretValues {
  @secure()
  *: string
} = {}

@description('Custom pool: resource id of an identity with pull rights on the registry of image. By default, a registry of its own and an identity for it are created.')
param registryIdentityId string = ''

@description('Custom pool: resource id of an existing Container Apps environment in the same region; empty for a new one.')
param environmentId string = ''

@description('Custom pool: send the logs of the containers to a new Log Analytics workspace. It is billed.')
param deployLogs bool = false

@description('Custom pool: subnet of a virtual network of yours, delegated to Microsoft.App/environments; empty for a network that Azure manages.')
param subnetId string = ''

@description('Create a storage account for files that are too large to travel with the code.')
param deployStorage bool = true

@description('Days after which the storage deletes a saved session.')
@minValue(1)
@maxValue(36500)
param checkpointDays int = 30

@description('Custom pool: create the gateway, which gives Foundry and other MCP clients an endpoint with a key.')
param deployGateway bool = false

@description('CPU cores of the gateway: 0.25 to 4, in steps of 0.25.')
param gatewayCpu string = '0.5'

@description('Memory of the gateway: twice as many Gi as cores.')
param gatewayMemory string = '1Gi'

@description('Most replicas of the gateway. One always runs.')
@minValue(1)
param gatewayReplicas int = 3

@description('Most requests of all clients of the gateway in a minute, for each replica.')
@minValue(1)
param gatewayRequestsPerMinute int = 6000

@description('Most runs of one environment in a minute, for each replica of the gateway.')
@minValue(1)
param gatewayRunsPerMinute int = 600

@description('Key that clients of the gateway send, of at least 16 characters. The gateway needs one; pass the same in every deployment.')
@secure()
param serveKey string = ''

@description('Secret that signs the gateway\'s environment ids. The gateway needs one; pass the same in every deployment.')
@secure()
param sessionSecret string = ''

@description('Leave it out: it makes the gateway start anew, since running replicas do not see new secrets.')
param revision string = utcNow('yyyyMMddHHmmss')

@description('Create a Foundry account with a project and a model.')
param deployFoundry bool = false

@description('Model of the Foundry project. Which ones there are differs by region and time.')
param modelName string = 'gpt-5.6-luna'

@description('Version of the model; empty for the region\'s default.')
param modelVersion string = ''

@description('Kind of the model deployment, which says where its requests may be answered.')
@allowed(['GlobalStandard', 'DataZoneStandard', 'Standard'])
param modelSku string = 'GlobalStandard'

@description('Most tokens a minute of the model, in thousands.')
@minValue(1)
param modelCapacity int = 10

@description('Python pool: create the Foundry connection, which needs mcpKey. The gateway of a custom pool is always connected. `cci foundry connect` can create the connection later, and fetches the key itself.')
param deployConnection bool = false

@description('Python pool: its MCP key, for the Foundry connection.')
@secure()
param mcpKey string = ''

var custom = kind == 'custom'
var withPool = !custom || !empty(image)
var withGateway = deployGateway && custom && !empty(image)
var withConnection = withGateway || (deployConnection && !custom)
var ownRegistry = custom && empty(registryIdentityId)
var ownIdentity = ownRegistry || withGateway
var ownEnvironment = custom && empty(environmentId)
var container = 'cci-files'
var checkpointContainer = 'cci-checkpoints'
var allTags = union(tags, { 'cci-plugins': name })
// An image of this name runs the server of cci-plugins: see container/README.md.
var isOwnImage = split(last(split(split(image, '@')[0], '/')), ':')[0] == 'cci-session'
var gatewayKey = withGateway && empty(serveKey)
  ? fail('deployGateway needs serveKey: a new key in each deployment would lock out its clients')
  : serveKey
var gatewaySecret = withGateway && empty(sessionSecret)
  ? fail('deployGateway needs sessionSecret: a new one in each deployment would end its clients\' sessions')
  : sessionSecret
var poolKey = deployConnection && !custom && empty(mcpKey) ? fail('deployConnection needs mcpKey') : mcpKey

module identity 'modules/identity.bicep' = if (ownIdentity) {
  params: {
    name: '${name}-id-${suffix}'
    location: location
    tags: allTags
  }
}

module registry 'modules/registry.bicep' = if (ownRegistry) {
  params: {
    name: '${name}acr${suffix}'
    location: location
    tags: allTags
    pullPrincipalId: identity!.outputs.principalId
  }
}

module environment 'modules/environment.bicep' = if (ownEnvironment) {
  params: {
    name: '${name}-env-${suffix}'
    location: location
    tags: allTags
    subnetId: subnetId
    deployLogs: deployLogs
    workspaceName: '${name}-logs-${suffix}'
  }
}

module pythonPool 'modules/python-pool.bicep' = if (!custom) {
  params: {
    name: '${name}pool${suffix}'
    location: location
    tags: allTags
    maxSessions: maxSessions
    cooldownSeconds: cooldownSeconds
    egress: egress
  }
}

module customPool 'modules/custom-pool.bicep' = if (custom && withPool) {
  params: {
    name: '${name}pool${suffix}'
    location: location
    tags: allTags
    maxSessions: maxSessions
    readySessions: readySessions
    cooldownSeconds: cooldownSeconds
    egress: egress
    image: image
    isOwnImage: isOwnImage
    cpu: cpu
    memory: memory
    env: env
    secretNames: secretNames
    secretValues: secretValues
    environmentId: ownEnvironment ? environment!.outputs.id : environmentId
    registryServer: ownRegistry ? registry!.outputs.loginServer : split(image, '/')[0]
    identityId: ownRegistry ? identity!.outputs.id : registryIdentityId
  }
}

module poolRoles 'modules/pool-roles.bicep' = if (withPool && !empty(principalId)) {
  params: {
    poolName: custom ? customPool!.outputs.name : pythonPool!.outputs.name
    principalId: principalId
    principalType: principalType
  }
}

module storage 'modules/storage.bicep' = if (deployStorage) {
  params: {
    name: '${name}st${suffix}'
    location: location
    tags: allTags
    containerName: container
    checkpointContainerName: checkpointContainer
    checkpointDays: checkpointDays
  }
}

module storageRoles 'modules/storage-roles.bicep' = if (deployStorage && !empty(principalId)) {
  params: {
    accountName: storage!.outputs.name
    containerName: container
    checkpointContainerName: checkpointContainer
    principalId: principalId
    principalType: principalType
  }
}

module gatewayRoles 'modules/pool-roles.bicep' = if (withGateway) {
  params: {
    poolName: customPool!.outputs.name
    principalId: identity!.outputs.principalId
    principalType: 'ServicePrincipal'
  }
}

module gateway 'modules/gateway.bicep' = if (withGateway) {
  params: {
    name: '${name}-gateway-${suffix}'
    location: location
    tags: allTags
    image: image
    environmentId: ownEnvironment ? environment!.outputs.id : environmentId
    workloadProfile: ownEnvironment ? 'Consumption' : ''
    registryServer: ownRegistry ? registry!.outputs.loginServer : split(image, '/')[0]
    pullIdentityId: ownRegistry ? identity!.outputs.id : registryIdentityId
    identityId: identity!.outputs.id
    identityClientId: identity!.outputs.clientId
    poolEndpoint: customPool!.outputs.endpoint
    cpu: gatewayCpu
    memory: gatewayMemory
    maxReplicas: gatewayReplicas
    requestsPerMinute: gatewayRequestsPerMinute
    runsPerMinute: gatewayRunsPerMinute
    serveKey: gatewayKey
    sessionSecret: gatewaySecret
    revision: revision
  }
  dependsOn: [gatewayRoles]
}

module foundry 'modules/foundry.bicep' = if (deployFoundry) {
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
    mcpEndpoint: withGateway ? gateway!.outputs.mcpEndpoint : (custom ? '' : pythonPool!.outputs.mcpEndpoint)
    deployConnection: withConnection
    mcpKey: withGateway ? gatewayKey : poolKey
  }
}

@description('Which pool the settings below are for.')
output CCI_POOL string = custom ? 'custom' : 'platform'

@description('Where the pool is reached with a sign-in.')
output AZURE_SESSION_POOL_ENDPOINT string = custom
  ? (withPool ? customPool!.outputs.endpoint : '')
  : pythonPool!.outputs.endpoint

@description('Where MCP clients reach the pool with a key: its own MCP server, or the gateway. Empty where there is neither.')
output AZURE_SESSION_POOL_MCP_ENDPOINT string = withGateway
  ? gateway!.outputs.mcpEndpoint
  : (custom ? '' : pythonPool!.outputs.mcpEndpoint)

@description('Resource id of the pool.')
output AZURE_SESSION_POOL_RESOURCE_ID string = custom
  ? (withPool ? customPool!.outputs.id : '')
  : pythonPool!.outputs.id

@description('Name of the storage account.')
output AZURE_STORAGE_ACCOUNT string = deployStorage ? storage!.outputs.name : ''

@description('Name of the container in it.')
output AZURE_STORAGE_CONTAINER string = deployStorage ? container : ''

@description('Name of the container in it for saved sessions.')
output AZURE_STORAGE_CHECKPOINT_CONTAINER string = deployStorage ? checkpointContainer : ''

@description('Days after which it deletes a saved session.')
output AZURE_STORAGE_CHECKPOINT_DAYS string = deployStorage ? string(checkpointDays) : ''

@description('Login server of the registry that the image is pushed to.')
output AZURE_CONTAINER_REGISTRY_ENDPOINT string = ownRegistry ? registry!.outputs.loginServer : ''

@description('Resource group of all this.')
output AZURE_RESOURCE_GROUP string = resourceGroup().name

@description('Endpoint of the Foundry project.')
output AZURE_AI_PROJECT_ENDPOINT string = deployFoundry ? foundry!.outputs.projectEndpoint : ''

@description('Name of the model deployment in it.')
output AZURE_AI_MODEL_DEPLOYMENT_NAME string = deployFoundry ? foundry!.outputs.modelDeploymentName : ''

@description('Resource id of the Foundry connection to the pool.')
output MCP_PROJECT_CONNECTION_ID string = deployFoundry && withConnection ? foundry!.outputs.connectionId : ''
