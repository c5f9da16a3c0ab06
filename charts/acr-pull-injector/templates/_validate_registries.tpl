{{/* Refuses credentials and login servers that cannot work. Renders nothing. */}}
{{- define "acr-pull-injector.validateRegistries" -}}
{{- $short := .Values.servicePrincipal -}}
{{- if and $short.existingSecret (or $short.clientId $short.clientSecret) -}}
{{- fail "Set either servicePrincipal.existingSecret or servicePrincipal.clientId with servicePrincipal.clientSecret, not both." -}}
{{- end -}}
{{- if and $short.clientId (not $short.clientSecret) -}}
{{- fail "servicePrincipal.clientId needs servicePrincipal.clientSecret beside it." -}}
{{- end -}}
{{- if and $short.clientSecret (not $short.clientId) -}}
{{- fail "servicePrincipal.clientSecret needs servicePrincipal.clientId beside it." -}}
{{- end -}}
{{- if and .Values.registries (or $short.existingSecret $short.clientId) -}}
{{- fail "Set either servicePrincipal or registries, not both: add the service principal as an entry of registries." -}}
{{- end -}}
{{- if and (eq $short.delivery "token") $short.clientId (not $short.tenantId) -}}
{{- fail "servicePrincipal.delivery is token, so servicePrincipal.tenantId must name the tenant: tokens come from there." -}}
{{- end -}}
{{- if and $short.certificate $short.clientId -}}
{{- fail "servicePrincipal.certificate needs servicePrincipal.existingSecret, which holds the certificate under the key clientCertificate." -}}
{{- end -}}
{{- include "acr-pull-injector.validateCertificate" (list "servicePrincipal" $short $short.certificate $short.certificatePassword) -}}

{{- $hosts := $short.hosts -}}
{{- range .Values.registries -}}
{{- $hosts = concat $hosts (default (list) .hosts) -}}
{{- end -}}
{{- /* The program's own rule (src/domain/image.rs): what it refuses would keep new pods from starting. */ -}}
{{- $place := "(-[a-z0-9]+)?([.][a-z0-9]+[.]geo)?" -}}
{{- $forms := list (printf "[*][.]%s" (include "acr-pull-injector.suffixPattern" .)) (printf "[a-z0-9]{5,50}%s[.]azurecr[.](io|cn|us)(:[0-9]+)?" $place) -}}
{{- range .Values.azure.extraSuffixes -}}
{{- $forms = append $forms (printf "[a-z0-9]{1,63}%s[.]%s(:[0-9]+)?" $place (replace "." "[.]" .)) -}}
{{- end -}}
{{- range $hosts -}}
{{- $port := splitList ":" . | rest | first | default "1" | int -}}
{{- $known := regexMatch (printf "(?i)^(%s)$" (join "|" $forms)) . -}}
{{- if or (not $known) (regexMatch "(?i)^(privatelink[.]|[^.]{64})" .) (lt $port 1) (gt $port 65535) -}}
{{- fail (printf "hosts: %s is no login server. Write a name such as contoso.azurecr.io (5 to 50 letters and digits before the domain), or *.azurecr.io for all; other domains belong in azure.extraSuffixes first." .) -}}
{{- end -}}
{{- end -}}

{{- $names := list -}}
{{- range .Values.registries -}}
{{- $entry := printf "registries: %s" .name -}}
{{- if has .name $names -}}
{{- fail (printf "registries: the name %s is used twice; each entry needs a name of its own." .name) -}}
{{- end -}}
{{- $names = append $names .name -}}
{{- if ne (len .credential) 1 -}}
{{- fail (printf "%s needs exactly one credential: servicePrincipal, workloadIdentity, managedIdentity or static." $entry) -}}
{{- end -}}

{{- if hasKey .credential "servicePrincipal" -}}
{{- $principal := .credential.servicePrincipal -}}
{{- $token := eq (default "password" $principal.delivery) "token" -}}
{{- $certificate := or $principal.certificate $principal.clientCertificateFile -}}
{{- include "acr-pull-injector.validateCertificate" (list $entry $principal $certificate (or $principal.certificatePassword $principal.clientCertificatePasswordFile)) -}}
{{- include "acr-pull-injector.validateOneOf" (list $entry $principal "clientId") -}}
{{- include "acr-pull-injector.validateOneOf" (list $entry $principal "tenantId") -}}
{{- include "acr-pull-injector.validateOneOf" (list $entry $principal "endDateTime") -}}
{{- if and $principal.existingSecret (or $principal.clientIdFile $principal.clientSecretFile $principal.clientCertificateFile $principal.clientCertificatePasswordFile $principal.tenantIdFile $principal.endDateTimeFile) -}}
{{- fail (printf "%s: set either existingSecret or files, not both." $entry) -}}
{{- end -}}
{{- if not $principal.existingSecret -}}
{{- if or $principal.certificate $principal.certificatePassword -}}
{{- fail (printf "%s: certificate and certificatePassword speak of keys of existingSecret; name files by clientCertificateFile and clientCertificatePasswordFile." $entry) -}}
{{- end -}}
{{- if and $principal.clientSecretFile $principal.clientCertificateFile -}}
{{- fail (printf "%s: set either clientSecretFile or clientCertificateFile, not both." $entry) -}}
{{- end -}}
{{- if not (and (or $principal.clientSecretFile $principal.clientCertificateFile) (or $principal.clientId $principal.clientIdFile)) -}}
{{- fail (printf "%s: set existingSecret (a Secret with the keys clientId and clientSecret), or clientSecretFile with clientId or clientIdFile." $entry) -}}
{{- end -}}
{{- if and $token (not (or $principal.tenantId $principal.tenantIdFile)) -}}
{{- fail (printf "%s: delivery is token, so tenantId or tenantIdFile must name the tenant: tokens come from there." $entry) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- if hasKey .credential "workloadIdentity" -}}
{{- $identity := .credential.workloadIdentity -}}
{{- include "acr-pull-injector.validateOneOf" (list $entry $identity "tenantId") -}}
{{- include "acr-pull-injector.validateOneOf" (list $entry $identity "clientId") -}}
{{- if not (and (or $identity.tenantId $identity.tenantIdFile) (or $identity.clientId $identity.clientIdFile)) -}}
{{- fail (printf "%s: workloadIdentity needs tenantId and clientId: the tenant and the application that trusts this cluster's tokens." $entry) -}}
{{- end -}}
{{- if and $identity.audience $identity.tokenFile -}}
{{- fail (printf "%s: audience is of the token that the chart asks for; with tokenFile there is none." $entry) -}}
{{- end -}}
{{- end -}}

{{- if hasKey .credential "static" -}}
{{- $static := .credential.static -}}
{{- include "acr-pull-injector.validateOneOf" (list $entry $static "username") -}}
{{- if and $static.existingSecret (or $static.usernameFile $static.passwordFile) -}}
{{- fail (printf "%s: set either existingSecret or files, not both." $entry) -}}
{{- end -}}
{{- if not (or $static.existingSecret (and $static.passwordFile (or $static.username $static.usernameFile))) -}}
{{- fail (printf "%s: set existingSecret (a Secret with the keys username and password), or passwordFile with username or usernameFile." $entry) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Given a name for the message, the values, and a key that may be there as itself or as a file. */}}
{{- define "acr-pull-injector.validateOneOf" -}}
{{- $entry := index . 0 -}}
{{- $values := index . 1 -}}
{{- $key := index . 2 -}}
{{- if and (get $values $key) (get $values (printf "%sFile" $key)) -}}
{{- fail (printf "%s: set either %s or %sFile, not both." $entry $key $key) -}}
{{- end -}}
{{- end -}}

{{/* Given a name for the message, the service principal, and whether there are a certificate and a password for it. */}}
{{- define "acr-pull-injector.validateCertificate" -}}
{{- $entry := index . 0 -}}
{{- $principal := index . 1 -}}
{{- if and (index . 2) (ne (default "password" $principal.delivery) "token") -}}
{{- fail (printf "%s: a certificate cannot be the password in a pull secret; set delivery to token." $entry) -}}
{{- end -}}
{{- if and (index . 2) (or $principal.endDateTime $principal.endDateTimeFile) -}}
{{- fail (printf "%s: endDateTime is of a password; a certificate says by itself when it ends." $entry) -}}
{{- end -}}
{{- if and (index . 3) (not (index . 2)) -}}
{{- fail (printf "%s: there is a password for a certificate, but no certificate." $entry) -}}
{{- end -}}
{{- end -}}
