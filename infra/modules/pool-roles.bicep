// Lets one principal run code in the pool, and nothing else.

@description('Name of the pool.')
param poolName string

@description('Object id of the principal.')
param principalId string

@description('What the principal is.')
@allowed(['User', 'Group', 'ServicePrincipal'])
param principalType string

var sessionExecutor = '0fb8eba5-a2bb-4abe-b1c1-49dfad359bb0'

resource pool 'Microsoft.App/sessionPools@2026-07-01' existing = {
  name: poolName
}

resource execute 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(pool.id, principalId, sessionExecutor)
  scope: pool
  properties: {
    principalId: principalId
    principalType: principalType
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', sessionExecutor)
  }
}
