// A custom pool in a subnet of yours.
using '../main.bicep'

param suffix = 'abc123'
param principalId = '11111111-1111-4111-8111-111111111111'
param kind = 'custom'
param image = 'cciacrabc123.azurecr.io/cci-session:1'
param subnetId = '/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/network/providers/Microsoft.Network/virtualNetworks/vnet/subnets/sessions'
