// A custom pool and the gateway in an environment of yours.
using '../main.bicep'

param suffix = 'abc123'
param principalId = '11111111-1111-4111-8111-111111111111'
param kind = 'custom'
param image = 'cciacrabc123.azurecr.io/cci-session:1'
param environmentId = '/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/shared/providers/Microsoft.App/managedEnvironments/apps'
param deployGateway = true
param serveKey = 'a-key-of-sixteen-characters'
param sessionSecret = 'a-secret-of-sixteen-characters'
param revision = '20261123000000'
