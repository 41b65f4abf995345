// `cci serve --pool custom`, in front of a custom pool: the MCP endpoint with a key that the pool
// itself does not have.

@description('Name of the container app.')
param name string

@description('Region.')
param location string

@description('Tags.')
param tags { *: string }

@description('The image of the sessions, which serves here too.')
param image string

@description('Resource id of the environment.')
param environmentId string

@description('Workload profile; empty for the environment\'s default.')
param workloadProfile string

@description('Login server of the registry.')
param registryServer string

@description('Resource id of the identity that pulls the image.')
param pullIdentityId string

@description('Resource id of the identity that opens the pool.')
param identityId string

@description('Client id of that identity.')
param identityClientId string

@description('Management endpoint of the pool.')
param poolEndpoint string

@description('CPU cores.')
param cpu string

@description('Memory.')
param memory string

@description('Most replicas. One always runs.')
param maxReplicas int

@description('Most requests of all clients in a minute, for each replica.')
param requestsPerMinute int

@description('Most runs of one environment in a minute, for each replica.')
param runsPerMinute int

@description('Key that clients send.')
@secure()
param serveKey string

@description('Secret that signs environment ids, the same in every replica.')
@secure()
param sessionSecret string

@description('Another one with each deployment: running replicas do not see new secrets.')
param revision string

var port = 6000

resource gateway 'Microsoft.App/containerApps@2026-07-01' = {
  name: name
  location: location
  tags: tags
  identity: {
    type: 'UserAssigned'
    userAssignedIdentities: union({ '${identityId}': {} }, { '${pullIdentityId}': {} })
  }
  properties: {
    environmentId: environmentId
    workloadProfileName: empty(workloadProfile) ? null : workloadProfile
    configuration: {
      activeRevisionsMode: 'Single'
      ingress: {
        external: true
        targetPort: port
        transport: 'http'
        allowInsecure: false
      }
      registries: [
        {
          server: registryServer
          identity: pullIdentityId
        }
      ]
      secrets: [
        {
          name: 'serve-key'
          value: serveKey
        }
        {
          name: 'session-secret'
          value: sessionSecret
        }
      ]
    }
    template: {
      revisionSuffix: 'r${revision}'
      containers: [
        {
          name: 'gateway'
          image: image
          command: ['/opt/cci/bin/cci']
          args: [
            'serve'
            '--pool'
            'custom'
            '--host'
            '0.0.0.0'
            '--port'
            string(port)
            '--requests-per-minute'
            string(requestsPerMinute)
            '--runs-per-minute'
            string(runsPerMinute)
          ]
          env: [
            {
              name: 'AZURE_SESSION_POOL_ENDPOINT'
              value: poolEndpoint
            }
            {
              name: 'AZURE_CLIENT_ID'
              value: identityClientId
            }
            {
              name: 'CCI_SERVE_KEY'
              secretRef: 'serve-key'
            }
            {
              name: 'CCI_SESSION_SECRET'
              secretRef: 'session-secret'
            }
          ]
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
            }
            {
              type: 'Readiness'
              httpGet: {
                path: '/health'
                port: port
              }
            }
            {
              type: 'Startup'
              httpGet: {
                path: '/health'
                port: port
              }
              failureThreshold: 10
              periodSeconds: 3
            }
          ]
        }
      ]
      scale: {
        minReplicas: 1
        maxReplicas: maxReplicas
      }
    }
  }
}

@description('Where MCP clients connect, with the key in the header x-ms-apikey.')
output mcpEndpoint string = 'https://${gateway.properties.configuration.ingress.fqdn}/mcp'
