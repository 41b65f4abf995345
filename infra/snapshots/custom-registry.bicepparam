// A custom pool with an image of another program, in a private registry of yours.
using '../main.bicep'

param suffix = 'abc123'
param principalId = '11111111-1111-4111-8111-111111111111'
param kind = 'custom'
param image = 'example.azurecr.io/analysis:3'
param registryIdentityId = '/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/shared/providers/Microsoft.ManagedIdentity/userAssignedIdentities/puller'
param env = { REGION: 'north' }
param secretNames = ['API_TOKEN']
param secretValues = { API_TOKEN: 'a-secret-value' }
