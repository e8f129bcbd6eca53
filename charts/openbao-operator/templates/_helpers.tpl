{{- define "openbao-operator.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "openbao-operator.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "openbao-operator.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* For what has no namespace: two installations of the same name in different namespaces must not share it. With one
that watches everything there is nobody to collide with. */}}
{{- define "openbao-operator.clusterwide" -}}
{{- include "openbao-operator.fullname" . -}}
{{- if .Values.watchNamespaces -}}-{{ .Release.Namespace }}{{- end -}}
{{- end -}}

{{- define "openbao-operator.selectorLabels" -}}
app.kubernetes.io/name: {{ include "openbao-operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{/* The same as one argument. */}}
{{- define "openbao-operator.podSelector" -}}
{{- $labels := include "openbao-operator.selectorLabels" . | fromYaml -}}
{{- $pairs := list -}}
{{- range $key, $value := $labels }}{{ $pairs = append $pairs (printf "%s=%s" $key $value) }}{{ end -}}
{{- join "," $pairs -}}
{{- end -}}

{{- define "openbao-operator.labels" -}}
{{ include "openbao-operator.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "openbao-operator.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "openbao-operator.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- required "serviceAccount.name is needed when serviceAccount.create is false" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "openbao-operator.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{/* What the operator does in a namespace whose clusters it runs. The same rules as a ClusterRole or as Roles. */}}
{{- define "openbao-operator.rules" -}}
# Our own kinds. Clusters and restores belong to people: the operator only marks them. Operations are its records.
- apiGroups: [openbao.org]
  resources: [openbaoclusters, openbaorestores, openbaorollouts]
  verbs: [get, list, watch, patch]
- apiGroups: [openbao.org]
  resources: [openbaooperations]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [openbao.org]
  resources: [openbaoclusters/status, openbaorestores/status, openbaorollouts/status]
  verbs: [patch]
- apiGroups: [openbao.org]
  resources: [openbaooperations/status]
  verbs: [update]
# Clusters that enforce it ask for this right before an owner reference may block deletion.
- apiGroups: [openbao.org]
  resources: [openbaoclusters/finalizers, openbaorestores/finalizers, openbaooperations/finalizers, openbaorollouts/finalizers]
  verbs: [update]
# What a cluster is made of.
- apiGroups: [apps]
  resources: [statefulsets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [services, serviceaccounts]
  verbs: [get, list, watch, create, patch, delete]
# update: granted on to the mover of one operation, for one ConfigMap by name.
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, list, watch, create, update, patch, delete]
# TLS, unseal key, credentials that a spec names. Only those with the operator's label are listed and watched; RBAC
# cannot say so. watchNamespaces keeps it to the namespaces that have clusters.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, list, watch, create, patch, delete]
# delete restarts a member. update is granted on to OpenBao, which labels its own pods.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, update, patch, delete]
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get, list, watch, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
# What leads to a cluster from outside.
- apiGroups: [networking.k8s.io]
  resources: [ingresses]
  verbs: [get, list, watch, create, patch, delete]
# The same, of kinds that others define. Nothing is watched, and nobody is asked for them who does not use them.
- apiGroups: [gateway.networking.k8s.io]
  resources: [httproutes, tlsroutes, backendtlspolicies]
  verbs: [get, create, patch, delete]
- apiGroups: [monitoring.coreos.com]
  resources: [servicemonitors]
  verbs: [get, create, patch, delete]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, delete]
- apiGroups: [rbac.authorization.k8s.io]
  resources: [roles, rolebindings]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
{{- end -}}

{{/* A duration such as 26h or 1h30m, in whole seconds. */}}
{{- define "openbao-operator.seconds" -}}
{{- $total := 0.0 -}}
{{- range regexFindAll "[0-9.]+(ms|s|m|h|d)" . -1 -}}
{{- $unit := regexFind "[a-z]+" . -}}
{{- $each := get (dict "ms" 0.001 "s" 1.0 "m" 60.0 "h" 3600.0 "d" 86400.0) $unit -}}
{{- $total = addf $total (mulf (regexFind "[0-9.]+" . | float64) $each) -}}
{{- end -}}
{{- $total | int64 -}}
{{- end -}}
