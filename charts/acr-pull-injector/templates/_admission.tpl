{{/* What the webhook and the fallback policy have in common: which pods they are for. */}}
{{- define "acr-pull-injector.namespaceSelector" -}}
matchExpressions:
- key: acr-pull-injector.io/inject
  operator: NotIn
  values: [disabled]
- key: kubernetes.io/metadata.name
  operator: NotIn
  values:
    {{- (include "acr-pull-injector.excludedNamespaces" . | fromJson).namespaces | toYaml | nindent 2 }}
{{- end -}}

{{- define "acr-pull-injector.objectSelector" -}}
matchExpressions:
- key: acr-pull-injector.io/inject
  operator: NotIn
  values: [disabled]
{{- end -}}

{{- define "acr-pull-injector.notMirrorPod" -}}
# The kubelet's copy of a static pod may not refer to a Secret.
- name: not-mirror-pod
  expression: "!has(object.metadata.annotations) || !('kubernetes.io/config.mirror' in object.metadata.annotations)"
{{- end -}}

{{/* Given the regular expression of image references. */}}
{{- define "acr-pull-injector.hasAcrImage" -}}
# containers may be null in a pod that validation refuses later.
- name: has-acr-image
  expression: >-
    ((has(object.spec.containers) && object.spec.containers != null ? object.spec.containers : [])
    + (has(object.spec.initContainers) ? object.spec.initContainers : [])
    + (has(object.spec.ephemeralContainers) ? object.spec.ephemeralContainers : []))
    .exists(c, has(c.image) && c.image.matches('{{ . }}'))
    || (has(object.spec.volumes) && object.spec.volumes.exists(v, has(v.image) && has(v.image.reference)
    && v.image.reference.matches('{{ . }}')))
{{- end -}}

{{/* "true" when the fallback policy is part of this release. */}}
{{- define "acr-pull-injector.fallbackPolicyEnabled" -}}
{{- $wanted := toString .Values.fallbackPolicy.enabled -}}
{{- $served := .Capabilities.APIVersions.Has "admissionregistration.k8s.io/v1/MutatingAdmissionPolicy" -}}
{{- $registries := (include "acr-pull-injector.registries" . | fromJson).registries -}}
{{- if and $registries (or (eq $wanted "true") (and (eq $wanted "auto") $served)) -}}
true
{{- end -}}
{{- end -}}
