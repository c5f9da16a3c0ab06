{{/*
The registry entries of the configuration file, each with what to mount for it.
Both forms of the values (servicePrincipal, registries) come out the same:
{"registries": [{"entry": ..., "secretName": ..., "volume": the volume's source, or empty,
"directory": where it is mounted}]}.
*/}}
{{- define "acr-pull-injector.registries" -}}
{{- $given := .Values.registries -}}
{{- $short := .Values.servicePrincipal -}}
{{- if or $short.existingSecret $short.clientId -}}
{{- $principal := dict
    "existingSecret" (default (include "acr-pull-injector.credentialSecretName" .) $short.existingSecret)
    "certificate" $short.certificate
    "certificatePassword" $short.certificatePassword
    "delivery" $short.delivery -}}
{{- range $key := list "tenantId" "endDateTime" -}}
{{- with get $short $key -}}
{{- $_ := set $principal $key . -}}
{{- end -}}
{{- end -}}
{{- $given = list (dict "name" "default" "hosts" $short.hosts "credential" (dict "servicePrincipal" $principal)) -}}
{{- end -}}
{{- $registries := list -}}
{{- range $registry := $given -}}
{{- $directory := printf "/etc/acr-pull-injector/credentials/%s" $registry.name -}}
{{- $kind := keys $registry.credential | first -}}
{{- $stated := get $registry.credential $kind -}}
{{- $credential := omit $stated "existingSecret" "certificate" "certificatePassword" "audience" -}}
{{- $volume := dict -}}
{{- $keys := list -}}
{{- if $stated.existingSecret -}}
{{- /* Pods of before an upgrade read the new configuration but keep their volumes: there, another Secret's files are missing. */ -}}
{{- $directory = printf "%s/%s" $directory (sha256sum $stated.existingSecret | trunc 8) -}}
{{- /* The Secret may be missing: the webhook runs without it, says so, and reads it when it comes. 288 is 0440: the container's group (fsGroup) reads. */ -}}
{{- $volume = dict "secret" (dict "secretName" $stated.existingSecret "optional" true "defaultMode" 288) -}}
{{- if eq $kind "static" -}}
{{- $keys = list "username" "password" -}}
{{- else -}}
{{- $keys = list "clientId" (ternary "clientCertificate" "clientSecret" (default false $stated.certificate)) -}}
{{- if $stated.certificatePassword -}}
{{- $keys = append $keys "clientCertificatePassword" -}}
{{- end -}}
{{- if not $stated.certificate -}}
{{- $keys = append $keys "endDateTime" -}}
{{- end -}}
{{- if eq (default "password" $stated.delivery) "token" -}}
{{- $keys = append $keys "tenantId" -}}
{{- end -}}
{{- end -}}
{{- else if and (eq $kind "workloadIdentity") (not $stated.tokenFile) -}}
{{- $audience := default "api://AzureADTokenExchange" $stated.audience -}}
{{- $token := dict "audience" $audience "expirationSeconds" 3600 "path" "token" -}}
{{- $volume = dict "projected" (dict "sources" (list (dict "serviceAccountToken" $token)) "defaultMode" 288) -}}
{{- $keys = list "token" -}}
{{- end -}}
{{- range $keys -}}
{{- if not (get $stated .) -}}
{{- $_ := set $credential (printf "%sFile" .) (printf "%s/%s" $directory .) -}}
{{- end -}}
{{- end -}}
{{- $entry := merge (dict "credential" (dict $kind $credential)) (omit $registry "credential") -}}
{{- $secretName := default "" $stated.existingSecret -}}
{{- $registries = append $registries (dict "entry" $entry "secretName" $secretName "volume" $volume "directory" $directory) -}}
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
{{- $azure := pick .Values.azure "authorityHost" "scope" "extraSuffixes" -}}
{{- if or .Values.azure.caBundle.configMapName .Values.azure.caBundle.secretName -}}
{{- $_ := set $azure "caFile" (printf "/etc/acr-pull-injector/ca/%s" .Values.azure.caBundle.key) -}}
{{- end -}}
{{- dict
    "pullSecretName" .Values.pullSecretName
    "registries" $entries
    "azure" $azure
    "admission" (dict "ensureTimeout" .Values.webhook.ensureTimeout "excludedNamespaces" $excluded)
    "reconcile" .Values.reconcile
    "heal" .Values.heal
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

{{/*
Image references at the login servers that some registry entry is for, as a regular expression inside a CEL string. An entry
without a port covers every port, as in the webhook itself.
*/}}
{{- define "acr-pull-injector.grantedImagePattern" -}}
{{- $hosts := list -}}
{{- range (include "acr-pull-injector.registries" . | fromJson).registries -}}
{{- range default (list "*.azurecr.io") .entry.hosts -}}
{{- $host := . | lower | replace "." "[.]" | replace "*[.]" "[^/]+[.]" -}}
{{- $hosts = append $hosts (ternary $host (printf "%s(:[0-9]+)?" $host) (contains ":" $host)) -}}
{{- end -}}
{{- end -}}
(?i)^({{ $hosts | uniq | sortAlpha | join "|" }})/
{{- end -}}
