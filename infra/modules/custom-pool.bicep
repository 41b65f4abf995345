// A pool of custom containers. It gets no mcpServerSettings, because Azure drops them here.

@description('Name of the pool: lower-case letters and digits.')
param name string

@description('Region.')
param location string

@description('Tags.')
param tags { *: string }

@description('Most sessions at once.')
param maxSessions int

@description('Sessions that are started before they are requested.')
param readySessions int

@description('Seconds without a request after which a session ends.')
param cooldownSeconds int

@description('Let code in the sessions reach the network.')
param egress bool

@description('Image of the sessions.')
param image string

@description('Whether the image runs the cci-plugins server, which hands env and secrets to the code.')
param isOwnImage bool

@description('CPU cores of a session\'s container.')
param cpu string

@description('Memory of a session\'s container.')
param memory string

@description('Variables for the code in the sessions.')
param env { *: string }

@description('Names of the variables whose values are in secretValues.')
param secretNames string[]

@description('Values of those variables, by name.')
@secure()
param secretValues {
  @secure()
  *: string
}

@description('Resource id of the environment.')
param environmentId string

@description('Login server of the registry.')
param registryServer string

@description('Resource id of the identity that pulls the image.')
param identityId string

var port = 6000
// The server hands a variable with this prefix to the code, and never uses it itself.
var prefix = isOwnImage ? 'CCI_SESSION_ENV_' : ''
var limits = isOwnImage
  ? [
      {
        name: 'CCI_CONTAINER_CPU'
        value: cpu
      }
      {
        name: 'CCI_CONTAINER_MEMORY'
        value: memory
      }
    ]
  : []
var plain = map(items(env), item => {
  name: '${prefix}${item.key}'
  value: item.value
})
var references = map(secretNames, secretName => {
  name: '${prefix}${secretName}'
  secretRef: replace(toLower(secretName), '_', '-')
})
var variables = concat(limits, plain, references)

resource pool 'Microsoft.App/sessionPools@2026-07-01' = {
  name: name
  location: location
  tags: tags
  identity: {
    type: 'UserAssigned'
    userAssignedIdentities: { '${identityId}': {} }
  }
  properties: {
    containerType: 'CustomContainer'
    poolManagementType: 'Dynamic'
    environmentId: environmentId
    scaleConfiguration: {
      maxConcurrentSessions: maxSessions
      readySessionInstances: readySessions
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
    secrets: empty(secretNames)
      ? null
      : map(secretNames, secretName => {
          name: replace(toLower(secretName), '_', '-')
          value: secretValues[secretName]
        })
    // None: the identity pulls the image, and no session can get a token of it.
    managedIdentitySettings: [
      {
        identity: identityId
        lifecycle: 'None'
      }
    ]
    customContainerTemplate: {
      containers: [
        {
          name: 'session'
          image: image
          env: empty(variables) ? null : variables
          resources: {
            cpu: json(cpu)
            memory: memory
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
    }
  }
}

@description('Resource id.')
output id string = pool.id

@description('Name of the pool.')
output name string = pool.name

@description('Where the pool is reached with a sign-in.')
output endpoint string = pool.properties.poolManagementEndpoint
