{{/*
Refuses a second release in the cluster, unless it is wanted and keeps other pull secrets than the first: two that write the
same Secret would undo each other's work. Only where helm can ask the cluster; helm template and Argo CD cannot.
*/}}
{{- define "acr-pull-injector.validateOtherReleases" -}}
{{- $registrations := lookup "admissionregistration.k8s.io/v1" "MutatingWebhookConfiguration" "" "" -}}
{{- range (default (dict) $registrations).items -}}
{{- $labels := default (dict) .metadata.labels -}}
{{- $annotations := default (dict) .metadata.annotations -}}
{{- $release := printf "%s/%s" (default "?" (get $annotations "meta.helm.sh/release-namespace")) (default "?" (get $annotations "meta.helm.sh/release-name")) -}}
{{- if and (eq (default "" (get $labels "app.kubernetes.io/part-of")) "acr-pull-injector") (ne $release (printf "%s/%s" $.Release.Namespace $.Release.Name)) -}}
{{- if and $.Release.IsInstall (not $.Values.allowSecondRelease) -}}
{{- fail (printf "This cluster already has acr-pull-injector: release %s, with the MutatingWebhookConfiguration %s. One release serves the whole cluster: add registries there. To run another one beside it, set allowSecondRelease and a pullSecretName of its own." $release .metadata.name) -}}
{{- end -}}
{{- if eq (default "acr-pull-secret" (get $annotations "acr-pull-injector.io/pull-secret-name")) $.Values.pullSecretName -}}
{{- fail (printf "pullSecretName %s is taken by release %s of acr-pull-injector. Two releases cannot keep the same pull secrets: set another name." $.Values.pullSecretName $release) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
