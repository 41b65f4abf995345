// A Python pool that Azure runs, with its own MCP server.

@description('Name of the pool: lower-case letters and digits.')
param name string

@description('Region.')
param location string

@description('Tags.')
param tags { *: string }

@description('Most sessions at once.')
param maxSessions int

@description('Seconds without a request after which a session ends.')
param cooldownSeconds int

@description('Let code in the sessions reach the network.')
param egress bool

// Only previews have mcpServerSettings. When Azure retires this one, change it to
// 2026-03-02-preview here.
#disable-next-line use-recent-api-versions
resource pool 'Microsoft.App/sessionPools@2025-10-02-preview' = {
  name: name
  location: location
  tags: tags
  properties: {
    containerType: 'PythonLTS'
    poolManagementType: 'Dynamic'
    scaleConfiguration: { maxConcurrentSessions: maxSessions }
    dynamicPoolConfiguration: {
      lifecycleConfiguration: {
        lifecycleType: 'Timed'
        cooldownPeriodInSeconds: cooldownSeconds
      }
    }
    sessionNetworkConfiguration: {
      status: egress ? 'EgressEnabled' : 'EgressDisabled'
    }
    mcpServerSettings: { isMcpServerEnabled: true }
  }
}

@description('Resource id.')
output id string = pool.id

@description('Name of the pool.')
output name string = pool.name

@description('Where the pool is reached with a sign-in.')
output endpoint string = pool.properties.poolManagementEndpoint

@description('The pool\'s own MCP server, as Azure reports it. Empty if Azure dropped it.')
output mcpEndpoint string = pool.properties.?mcpServerSettings.?mcpServerEndpoint ?? ''
