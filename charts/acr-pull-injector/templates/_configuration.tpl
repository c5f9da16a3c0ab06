{{/*
The registry entries of the configuration file, each with the Secret to mount for it.
Both forms of the values (servicePrincipal, registries) come out the same: {"registries": [{"entry": ..., "secretName": ...}]}.
*/}}
{{- define "acr-pull-injector.registries" -}}
{{- $registries := list -}}
{{- $short := .Values.servicePrincipal -}}
{{- if or $short.existingSecret $short.clientId -}}
{{- $directory := "/etc/acr-pull-injector/credentials/default" -}}
{{- $servicePrincipal := dict
    "clientIdFile" (printf "%s/clientId" $directory)
    "clientSecretFile" (printf "%s/clientSecret" $directory)
    "delivery" $short.delivery -}}
{{- $entry := dict "name" "default" "hosts" $short.hosts "credential" (dict "servicePrincipal" $servicePrincipal) -}}
{{- $secretName := default (include "acr-pull-injector.credentialSecretName" .) $short.existingSecret -}}
{{- $registries = append $registries (dict "entry" $entry "secretName" $secretName) -}}
{{- end -}}
{{- range $registry := .Values.registries -}}
{{- $directory := printf "/etc/acr-pull-injector/credentials/%s" $registry.name -}}
{{- $entry := omit $registry "credential" -}}
{{- $secretName := "" -}}
{{- with $registry.credential.servicePrincipal -}}
{{- $servicePrincipal := omit . "existingSecret" -}}
{{- if .existingSecret -}}
{{- $secretName = .existingSecret -}}
{{- if not .clientId -}}
{{- $_ := set $servicePrincipal "clientIdFile" (printf "%s/clientId" $directory) -}}
{{- end -}}
{{- $_ := set $servicePrincipal "clientSecretFile" (printf "%s/clientSecret" $directory) -}}
{{- end -}}
{{- $_ := set $entry "credential" (dict "servicePrincipal" $servicePrincipal) -}}
{{- end -}}
{{- with $registry.credential.static -}}
{{- $static := omit . "existingSecret" -}}
{{- if .existingSecret -}}
{{- $secretName = .existingSecret -}}
{{- if not .username -}}
{{- $_ := set $static "usernameFile" (printf "%s/username" $directory) -}}
{{- end -}}
{{- $_ := set $static "passwordFile" (printf "%s/password" $directory) -}}
{{- end -}}
{{- $_ := set $entry "credential" (dict "static" $static) -}}
{{- end -}}
{{- $registries = append $registries (dict "entry" $entry "secretName" $secretName) -}}
{{- end -}}
{{- dict "registries" $registries | toJson -}}
{{- end -}}

{{/* Namespaces that are never injected, as {"namespaces": [...]}. */}}
{{- define "acr-pull-injector.excludedNamespaces" -}}
{{- $always := list "kube-system" "kube-node-lease" .Release.Namespace -}}
{{- dict "namespaces" (concat $always .Values.webhook.excludedNamespaces | uniq) | toJson -}}
{{- end -}}

{{/* The configuration file of the webhook. */}}
{{- define "acr-pull-injector.configuration" -}}
{{- $entries := list -}}
{{- range (include "acr-pull-injector.registries" . | fromJson).registries -}}
{{- $entries = append $entries .entry -}}
{{- end -}}
{{- $excluded := (include "acr-pull-injector.excludedNamespaces" . | fromJson).namespaces -}}
{{- dict
    "pullSecretName" .Values.pullSecretName
    "registries" $entries
    "azure" (dict "extraSuffixes" .Values.azure.extraSuffixes)
    "admission" (dict "ensureTimeout" .Values.webhook.ensureTimeout "excludedNamespaces" $excluded)
  | toYaml -}}
{{- end -}}

{{/*
The domains of login servers, as alternatives of a regular expression. A suffix is made of letters, digits, hyphens and
dots (values.schema.json), so only its dots need care.
*/}}
{{- define "acr-pull-injector.suffixPattern" -}}
{{- $suffixes := list "azurecr[.](io|cn|us)" -}}
{{- range .Values.azure.extraSuffixes -}}
{{- $suffixes = append $suffixes (replace "." "[.]" .) -}}
{{- end -}}
({{ join "|" $suffixes }})
{{- end -}}

{{/* Image references whose registry is an Azure Container Registry, as a regular expression inside a CEL string. */}}
{{- define "acr-pull-injector.imagePattern" -}}
(?i)^[^/]+[.]{{ include "acr-pull-injector.suffixPattern" . }}(:[0-9]+)?/
{{- end -}}
