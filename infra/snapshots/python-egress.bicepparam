// A managed Python pool whose sessions reach the network, with sizes and tags of its own.
using '../main.bicep'

param suffix = 'abc123'
param principalId = '11111111-1111-4111-8111-111111111111'
param name = 'mine'
param location = 'westus2'
param tags = { team: 'data' }
param maxSessions = 7
param cooldownSeconds = 900
param egress = true
