// A managed Python pool with storage: the defaults.
using '../main.bicep'

param suffix = 'abc123'
param principalId = '11111111-1111-4111-8111-111111111111'
