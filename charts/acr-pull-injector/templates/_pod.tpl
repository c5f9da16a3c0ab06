{{/* What the webhook's pods and the cleanup pod have in common: where they run, and their container. */}}
{{- define "acr-pull-injector.scheduling" -}}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.podSecurityContext }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "acr-pull-injector.container" -}}
{{- with .Values.image }}
{{- if .digest }}
image: "{{ .repository }}@{{ .digest }}"
{{- else }}
image: "{{ .repository }}:{{ default $.Chart.AppVersion .tag }}"
{{- end }}
imagePullPolicy: {{ .pullPolicy }}
{{- end }}
{{- with .Values.resources }}
resources:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.securityContext }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/*
How the Deployment replaces pods. On the node's network each node has room for one pod only, so one more than there are
nodes would never start: with the strategy of values.yaml a pod goes before the next one comes, if another one stays.
*/}}
{{- define "acr-pull-injector.strategy" -}}
{{- $stated := .Values.strategy | default dict -}}
{{- $rolling := $stated.rollingUpdate | default dict -}}
{{- $isDefault := and (eq (toString $rolling.maxUnavailable) "0") (eq (toString $rolling.maxSurge) "1") -}}
{{- if and .Values.hostNetwork $isDefault (gt (int .Values.replicaCount) 1) -}}
{{- $rolling = dict "maxUnavailable" 1 "maxSurge" 0 -}}
{{- $stated = merge (dict "rollingUpdate" $rolling) (omit $stated "rollingUpdate") -}}
{{- end -}}
{{- toYaml $stated -}}
{{- end -}}
