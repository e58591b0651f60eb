{{/* Whether every instance type has local disks: https://docs.aws.amazon.com/ec2/latest/instancetypes/ac.html */}}
{{- define "sd-on-eks.typesHaveLocalDisks" -}}
{{- $types := .Values.karpenter.provisioner.instanceType | default list -}}
{{- $all := gt (len $types) 0 -}}
{{- range $types -}}
{{- if not (regexMatch "^(g4dn|g4ad|g5|g6|g6e|gr6|p4d|p4de|p5|p5e|p5en|[a-z]+[0-9]+[a-z]*d[a-z]*)\\." .) -}}{{- $all = false -}}{{- end -}}
{{- end -}}
{{- if $all -}}true{{- end -}}
{{- end -}}

{{/* How images get onto a node: soci, snapshot or none, checked against all that would undo it. */}}
{{- define "sd-on-eks.imageCache" -}}
{{- $node := .Values.karpenter.nodeTemplate -}}
{{- $userData := $node.userData | default "" -}}
{{- $snapshot := $node.dataVolume.snapshotID | default "" -}}
{{- $mode := $node.imageCache | default (ternary "snapshot" (ternary "soci" "none" (eq "true" (include "sd-on-eks.typesHaveLocalDisks" .))) (ne $snapshot "")) -}}
{{- $at := "karpenter.nodeTemplate" -}}
{{- if and (eq $mode "snapshot") (not $snapshot) -}}
{{- fail (printf "%s.imageCache: snapshot needs dataVolume.snapshotID" $at) -}}
{{- end -}}
{{- if and $snapshot (ne $mode "snapshot") -}}
{{- fail (printf "%s: imageCache %s does not use dataVolume.snapshotID: remove one of the two" $at $mode) -}}
{{- end -}}
{{- if and (eq $mode "snapshot") $node.instanceStorePolicy -}}
{{- fail (printf "%s.instanceStorePolicy: local disks would be mounted over the images of the snapshot and hide them: remove one of the two" $at) -}}
{{- end -}}
{{- if contains "ephemeral-storage" $userData -}}
{{- fail (printf "%s.userData: Karpenter mounts local disks itself where instanceStorePolicy is RAID0, and over a snapshot they hide its images: remove ephemeral-storage" $at) -}}
{{- end -}}
{{- if regexMatch "(?m)^\\s*(snapshotter\\s*=|\\[settings\\.container-runtime-plugins\\.soci)" $userData -}}
{{- fail (printf "%s.userData: imageCache %s chooses the snapshotter; another one at boot wipes the images of a snapshot: remove it there" $at $mode) -}}
{{- end -}}
{{- if regexMatch "(?m)^\\s*(device-sharing-strategy\\s*=|\\[settings\\.kubelet-device-plugins\\.nvidia)" $userData -}}
{{- fail (printf "%s.userData: gpuSharing writes the settings of the GPU's device plug-in: remove them there" $at) -}}
{{- end -}}
{{- $mode -}}
{{- end -}}

{{/* Whether local disks are used: not where they would hide a snapshot. */}}
{{- define "sd-on-eks.hasLocalDisks" -}}
{{- $mode := include "sd-on-eks.imageCache" . -}}
{{- if and .Values.karpenter.enabled (ne $mode "snapshot") (or .Values.karpenter.nodeTemplate.instanceStorePolicy (include "sd-on-eks.typesHaveLocalDisks" .)) -}}true{{- end -}}
{{- end -}}

{{/* Terms that select subnets or security groups: by ids, else by tags. Arguments: a list of path, ids, tags. */}}
{{- define "sd-on-eks.selectorTerms" -}}
{{- $ids := include "sd-on-eks.list" (index . 1) | fromJsonArray -}}
{{- $terms := list -}}
{{- range $ids -}}{{- $terms = append $terms (dict "id" .) -}}{{- end -}}
{{- if and (not $ids) (index . 2) -}}{{- $terms = list (dict "tags" (index . 2)) -}}{{- end -}}
{{- if and $ids (index . 2) -}}{{- fail (printf "karpenter.nodeTemplate: give %sIds or %sSelector, not both" (index . 0) (index . 0)) -}}{{- end -}}
{{- if not $terms -}}{{- fail (printf "karpenter.nodeTemplate: give %sIds or %sSelector" (index . 0) (index . 0)) -}}{{- end -}}
{{- toYaml $terms -}}
{{- end -}}

{{/* Volume of a node. Arguments: a list of context, values, size. */}}
{{- define "sd-on-eks.volume" -}}
{{- $root := index . 0 -}}{{- $volume := index . 1 -}}
volumeSize: {{ index . 2 }}
volumeType: {{ $volume.volumeType }}
deleteOnTermination: {{ $volume.deleteOnTermination }}
iops: {{ $volume.iops }}
throughput: {{ $volume.throughput }}
encrypted: true
{{- with $root.Values.karpenter.nodeTemplate.kmsKeyId }}
kmsKeyID: {{ . | quote }}
{{- end }}
{{- end -}}

{{/* Settings of Bottlerocket: https://bottlerocket.dev/en/os/latest/#/api/settings/ */}}
{{- define "sd-on-eks.userData" -}}
{{- $node := .Values.karpenter.nodeTemplate -}}
{{- if eq (include "sd-on-eks.imageCache" .) "soci" }}
[settings.container-runtime]
snapshotter = "soci"
[settings.container-runtime-plugins.soci-snapshotter]
pull-mode = "parallel-pull-unpack"
[settings.container-runtime-plugins.soci-snapshotter.parallel-pull-unpack]
max-concurrent-downloads-per-image = 10
concurrent-download-chunk-size = "16mb"
max-concurrent-unpacks-per-image = 10
discard-unpacked-layers = true
{{ end -}}
{{- with $node.gpuSharing }}
{{- if ne .strategy "none" }}
[settings.kubelet-device-plugins.nvidia]
device-sharing-strategy = {{ .strategy | quote }}
[settings.kubelet-device-plugins.nvidia.{{ .strategy }}]
replicas = {{ .replicas }}
rename-by-default = true
{{ end -}}
{{- end -}}
{{- $node.userData | default "" -}}
{{- end -}}

{{/* GPUs of all nodes together: twice what all pods need, for a rollout that brings new ones first. */}}
{{- define "sd-on-eks.gpuLimit" -}}
{{- $pods := ternary .Values.runtime.scaling.maxReplicaCount .Values.runtime.replicas .Values.runtime.scaling.enabled -}}
{{- $each := get (.Values.runtime.inferenceApi.resources.limits | default dict) "nvidia.com/gpu" | default 1 -}}
{{- max 1 (mul 2 (int64 $pods) (int64 $each)) -}}
{{- end -}}
