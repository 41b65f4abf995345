// A custom pool with its own CPU, memory, variables and secrets, and with logs.
using '../main.bicep'

param suffix = 'abc123'
param principalId = '11111111-1111-4111-8111-111111111111'
param kind = 'custom'
param image = 'cciacrabc123.azurecr.io/cci-session:1'
param cpu = '2'
param memory = '4Gi'
param env = {
  REGION: 'north'
  API_URL: 'https://api.example.com'
}
param secretNames = ['API_TOKEN']
param secretValues = { API_TOKEN: 'a-secret-value' }
param deployLogs = true
