// A custom pool with an image in its own registry.
using '../main.bicep'

param suffix = 'abc123'
param principalId = '11111111-1111-4111-8111-111111111111'
param kind = 'custom'
param image = 'cciacrabc123.azurecr.io/cci-session:1'
param readySessions = 2
