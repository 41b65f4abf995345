// The session pool. Azure drops mcpServerSettings of custom containers without a word, so only a
// Python pool gets them.

@description('Name of the pool: lower-case letters and digits.')
param name string

@description('Region.')
param location string

@description('Tags.')
param tags object

@description('Python pool that Azure runs, or custom containers.')
@allowed(['python', 'custom'])
param kind string

@description('Most sessions at once.')
param maxSessions int

@description('Custom containers that are started before they are asked for.')
param readySessions int

@description('Seconds without a request after which a session ends.')
param cooldownSeconds int

@description('Let code in the sessions reach the network.')
param egress bool

@description('Custom pool: image of the sessions.')
param image string

@description('Custom pool: resource id of the environment.')
param environmentId string

@description('Custom pool: login server of the registry.')
param registryServer string

@description('Custom pool: resource id of the identity that pulls the image.')
param identityId string

var custom = kind == 'custom'
var port = 6000

resource pool 'Microsoft.App/sessionPools@2025-10-02-preview' = {
  name: name
  location: location
  tags: tags
  identity: custom ? {
    type: 'UserAssigned'
    userAssignedIdentities: { '${identityId}': {} }
  } : null
  properties: {
    containerType: custom ? 'CustomContainer' : 'PythonLTS'
    poolManagementType: 'Dynamic'
    environmentId: custom ? environmentId : null
    scaleConfiguration: {
      maxConcurrentSessions: maxSessions
      readySessionInstances: custom ? readySessions : null
    }
    dynamicPoolConfiguration: {
      lifecycleConfiguration: {
        lifecycleType: 'Timed'
        cooldownPeriodInSeconds: cooldownSeconds
      }
    }
    sessionNetworkConfiguration: {
      status: egress ? 'EgressEnabled' : 'EgressDisabled'
    }
    mcpServerSettings: custom ? null : { isMcpServerEnabled: true }
    // None: the identity pulls the image, and no session can get a token of it.
    managedIdentitySettings: custom ? [
      {
        identity: identityId
        lifecycle: 'None'
      }
    ] : null
    customContainerTemplate: custom ? {
      containers: [
        {
          name: 'session'
          image: image
          resources: {
            cpu: 1
            memory: '2Gi'
          }
          probes: [
            {
              type: 'Liveness'
              httpGet: {
                path: '/health'
                port: port
              }
              failureThreshold: 4
            }
            {
              type: 'Startup'
              httpGet: {
                path: '/health'
                port: port
              }
              failureThreshold: 30
              periodSeconds: 2
            }
          ]
        }
      ]
      ingress: { targetPort: port }
      registryCredentials: {
        server: registryServer
        identity: identityId
      }
    } : null
  }
}

@description('Resource id.')
output id string = pool.id

@description('Name of the pool.')
output name string = pool.name

@description('Where the pool is reached with a sign-in.')
output endpoint string = pool.properties.poolManagementEndpoint

@description('The pool\'s own MCP server, as Azure reports it; empty where it has none.')
output mcpEndpoint string = pool.properties.?mcpServerSettings.?mcpServerEndpoint ?? ''
