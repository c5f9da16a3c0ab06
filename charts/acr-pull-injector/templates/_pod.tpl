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
