// A managed Python pool, and a Foundry project that is connected to it.
using '../main.bicep'

param suffix = 'abc123'
param principalId = '11111111-1111-4111-8111-111111111111'
param deployFoundry = true
param deployConnection = true
param mcpKey = 'the-key-of-the-pool'
