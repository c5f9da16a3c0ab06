{{/* The chart's part of object names. */}}
{{- define "acr-pull-injector.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* The full name: release and chart, or only the release when it already says what it is. 40 characters leave room for endings. */}}
{{- define "acr-pull-injector.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "acr-pull-injector.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "acr-pull-injector.serviceAccountName" -}}
{{- default (include "acr-pull-injector.fullname" .) .Values.serviceAccount.name -}}
{{- end -}}

{{- define "acr-pull-injector.webhookConfigurationName" -}}
{{- default (include "acr-pull-injector.fullname" .) .Values.webhook.configurationName -}}
{{- end -}}

{{/* The Secret that holds the serving certificate, whoever writes it. */}}
{{- define "acr-pull-injector.certificateSecretName" -}}
{{- if eq .Values.certificates.source "existingSecret" -}}
{{- .Values.certificates.existingSecret.name -}}
{{- else -}}
{{- printf "%s-serving-certificate" (include "acr-pull-injector.fullname" .) -}}
{{- end -}}
{{- end -}}

{{/* The Secret with the service principal that was given as values. */}}
{{- define "acr-pull-injector.credentialSecretName" -}}
{{- printf "%s-service-principal" (include "acr-pull-injector.fullname" .) -}}
{{- end -}}

{{/* Labels that find this release's pods. They never change within a release. */}}
{{- define "acr-pull-injector.selectorLabels" -}}
app.kubernetes.io/name: {{ include "acr-pull-injector.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "acr-pull-injector.labels" -}}
{{- $own := dict
    "helm.sh/chart" (printf "%s-%s" .Chart.Name (.Chart.Version | replace "+" "_"))
    "app.kubernetes.io/version" .Chart.AppVersion
    "app.kubernetes.io/managed-by" .Release.Service
    "app.kubernetes.io/part-of" "acr-pull-injector" -}}
{{- $selector := include "acr-pull-injector.selectorLabels" . | fromYaml -}}
{{- merge (dict) $selector $own .Values.commonLabels | toYaml -}}
{{- end -}}
