{{/* Name of everything in the release: the runtime's. */}}
{{- define "sd-on-eks.name" -}}
{{- .Release.Name -}}
{{- end -}}

{{- define "sd-on-eks.selectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "sd-on-eks.labels" -}}
{{- $labels := dict "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version) "app.kubernetes.io/managed-by" .Release.Service "app.kubernetes.io/part-of" "sdctl" "app.kubernetes.io/component" .Values.runtime.type -}}
{{- toYaml (merge (include "sd-on-eks.selectorLabels" . | fromYaml) $labels .Values.runtime.labels) -}}
{{- end -}}

{{- define "sd-on-eks.serviceAccountName" -}}
{{- .Values.runtime.serviceAccountName | default (include "sd-on-eks.name" .) -}}
{{- end -}}

{{/* Values of the runtime's type. */}}
{{- define "sd-on-eks.type" -}}
{{- $types := .Values.types -}}
{{- if not (hasKey $types .Values.runtime.type) -}}
{{- fail (printf "runtime.type: %q is none of %s" .Values.runtime.type (keys $types | sortAlpha | join ", ")) -}}
{{- end -}}
{{- toJson (index $types .Values.runtime.type) -}}
{{- end -}}

{{/* Reference of an image. Arguments: a list of context, path of the value, image, default repository, default tag. */}}
{{- define "sd-on-eks.image" -}}
{{- $root := index . 0 -}}{{- $path := index . 1 -}}{{- $image := index . 2 -}}
{{- $repository := $image.repository | default (index . 3) -}}
{{- $tag := $image.tag | default (index . 4) -}}
{{- if not (or $image.digest $tag) -}}
{{- fail (printf "%s: give a tag or a digest of %s" $path $repository) -}}
{{- end -}}
{{- $first := index (splitList "/" $repository) 0 -}}
{{- if and $root.Values.global.imageRegistry (not (or (contains "." $first) (contains ":" $first) (eq $first "localhost"))) -}}
{{- $repository = printf "%s/%s" (trimSuffix "/" $root.Values.global.imageRegistry) $repository -}}
{{- end -}}
{{- if $image.digest -}}{{- printf "%s@%s" $repository $image.digest -}}{{- else -}}{{- printf "%s:%s" $repository $tag -}}{{- end -}}
{{- end -}}

{{/* When an image is pulled; nodes would disagree on what `latest` is. Argument: values of the container. */}}
{{- define "sd-on-eks.pullPolicy" -}}
{{- .imagePullPolicy | default (ternary "Always" "IfNotPresent" (and (eq .image.tag "latest") (not .image.digest))) -}}
{{- end -}}

{{- define "sd-on-eks.agentImage" -}}
{{- include "sd-on-eks.image" (list . "runtime.queueAgent.image" .Values.runtime.queueAgent.image "" .Chart.AppVersion) -}}
{{- end -}}

{{/* Environment of a container, sorted; later entries win. Arguments: maps, and lists as in a pod. */}}
{{- define "sd-on-eks.env" -}}
{{- $entries := dict -}}
{{- range . -}}
{{- if kindIs "slice" . -}}
{{- range . -}}{{- $_ := set $entries .name . -}}{{- end -}}
{{- else -}}
{{- range $name, $value := . | default dict -}}
{{- if kindIs "map" $value -}}
{{- $_ := set $entries $name (merge (dict "name" $name) $value) -}}
{{- else -}}
{{- $_ := set $entries $name (dict "name" $name "value" (toString $value)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $list := list -}}
{{- range $name := keys $entries | sortAlpha -}}{{- $list = append $list (index $entries $name) -}}{{- end -}}
{{- toYaml $list -}}
{{- end -}}

{{/* A list from a list, or from one text with commas, as an output of a stack is; JSON. */}}
{{- define "sd-on-eks.list" -}}
{{- if kindIs "string" . -}}
{{- $list := list -}}
{{- range splitList "," . -}}{{- if trim . -}}{{- $list = append $list (trim .) -}}{{- end -}}{{- end -}}
{{- toJson $list -}}
{{- else -}}
{{- toJson . -}}
{{- end -}}
{{- end -}}

{{/* Seconds that a pod has to stop: an aborted poll, the drain, and then the server's own end. */}}
{{- define "sd-on-eks.graceSeconds" -}}
{{- add .Values.runtime.drainSeconds 60 -}}
{{- end -}}

{{/* How long a node that goes gives its pods. Karpenter does not evict a protected pod, not even at Spot's notice: it
deletes it when no more is left of this time than the pod's own. So on Spot there is hardly more.
https://karpenter.sh/docs/concepts/disruption/#terminationgraceperiod */}}
{{- define "sd-on-eks.nodeGrace" -}}
{{- $pool := .Values.karpenter.provisioner -}}
{{- $shortest := printf "%ds" (include "sd-on-eks.graceSeconds" . | int | add 5) -}}
{{- $pool.disruption.terminationGracePeriod | default (ternary $shortest "30m" $pool.capacityType.spot) -}}
{{- end -}}

{{/* Seconds of a duration, as 1h30m. */}}
{{- define "sd-on-eks.seconds" -}}
{{- $seconds := 0 -}}
{{- range regexFindAll "[0-9]+[hms]" . -1 -}}
{{- $unit := get (dict "h" 3600 "m" 60 "s" 1) (trimAll "0123456789" .) -}}
{{- $seconds = add $seconds (mul (regexFind "[0-9]+" .) $unit) -}}
{{- end -}}
{{- $seconds -}}
{{- end -}}

{{/* Environment of the inference server; JSON. */}}
{{- define "sd-on-eks.serverEnv" -}}
{{- $root := . -}}
{{- $type := include "sd-on-eks.type" . | fromJson -}}
{{- $env := dict -}}
{{- range $name, $value := $type.env -}}
{{- $text := tpl $value $root -}}
{{- if $text -}}{{- $_ := set $env $name $text -}}{{- end -}}
{{- end -}}
{{- $arguments := list -}}
{{- range $type.arguments -}}{{- $arguments = append $arguments (tpl . $root) -}}{{- end -}}
{{- with .Values.runtime.inferenceApi.commandArguments -}}{{- $arguments = append $arguments . -}}{{- end -}}
{{- with $arguments -}}{{- $_ := set $env "EXTRA_CMD_ARG" (join " " .) -}}{{- end -}}
{{- toJson $env -}}
{{- end -}}

{{/* Body of the warm-up request; empty where there is none. */}}
{{- define "sd-on-eks.warmUpBody" -}}
{{- if .Values.runtime.inferenceApi.warmUp -}}
{{- $type := include "sd-on-eks.type" . | fromJson -}}
{{- tpl $type.warmUp.body . -}}
{{- end -}}
{{- end -}}

{{- define "sd-on-eks.isShared" -}}
{{- if ne .Values.karpenter.nodeTemplate.gpuSharing.strategy "none" -}}true{{- end -}}
{{- end -}}

{{/* Resources of the inference server; of a shared GPU, a share. */}}
{{- define "sd-on-eks.serverResources" -}}
{{- $root := . -}}
{{- $resources := dict -}}
{{- range $kind, $given := .Values.runtime.inferenceApi.resources -}}
{{- $amounts := dict -}}
{{- range $name, $amount := $given -}}
{{- if and (eq $name "nvidia.com/gpu") (include "sd-on-eks.isShared" $root) -}}
{{- if ne (toString $amount) "1" -}}{{- fail "runtime.inferenceApi.resources: a pod has one share of a shared GPU" -}}{{- end -}}
{{- $_ := set $amounts "nvidia.com/gpu.shared" "1" -}}
{{- else -}}
{{- $_ := set $amounts $name (toString $amount) -}}
{{- end -}}
{{- end -}}
{{- $_ := set $resources $kind $amounts -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end -}}

{{/* What the volume of the models is, which cannot be changed once it is there. */}}
{{- define "sd-on-eks.volumeSource" -}}
{{- $s3 := .Values.runtime.persistence.s3 -}}
driver: s3.csi.aws.com
readOnly: true
volumeAttributes:
  bucketName: {{ required "runtime.persistence.s3.modelBucket is needed" $s3.modelBucket | quote }}
  {{- with $s3.memoryLimit }}
  mountpointContainerResourcesLimitsMemory: {{ . }}
  {{- end }}
  {{- if and $s3.cacheSize (include "sd-on-eks.hasLocalDisks" .) }}
  cache: emptyDir
  cacheEmptyDirSizeLimit: {{ $s3.cacheSize }}
  {{- end }}
{{- end -}}

{{/* Name of the volume of the models. A change of its source makes another: Kubernetes refuses to change one. */}}
{{- define "sd-on-eks.volumeName" -}}
{{- $source := list (include "sd-on-eks.volumeSource" .) .Values.runtime.persistence.accessModes .Values.runtime.persistence.size -}}
{{- printf "%s-%s-models-%s" .Release.Namespace (include "sd-on-eks.name" .) (toJson $source | sha256sum | trunc 8) -}}
{{- end -}}

{{- define "sd-on-eks.hasVolume" -}}
{{- $models := .Values.runtime.persistence -}}
{{- if and $models.enabled $models.s3.enabled (not (or $models.existingClaim $models.existingVolume $models.storageClass)) -}}true{{- end -}}
{{- end -}}

{{- define "sd-on-eks.claimName" -}}
{{- if .Values.runtime.persistence.existingClaim -}}
{{- .Values.runtime.persistence.existingClaim -}}
{{- else if include "sd-on-eks.hasVolume" . -}}
{{- printf "%s-models-%s" (include "sd-on-eks.name" .) (include "sd-on-eks.volumeName" . | splitList "-" | last) -}}
{{- else -}}
{{- printf "%s-models" (include "sd-on-eks.name" .) -}}
{{- end -}}
{{- end -}}

{{/* Security context of a container. Arguments: a list of user, whether the image's files are read-only. */}}
{{- define "sd-on-eks.containerSecurity" -}}
runAsUser: {{ index . 0 }}
runAsGroup: {{ index . 0 }}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: {{ index . 1 }}
capabilities:
  drop: [ALL]
{{- end -}}

{{/* Settings of the agent that values of their own make; JSON. */}}
{{- define "sd-on-eks.agentEnv" -}}
{{- $agent := .Values.runtime.queueAgent -}}
{{- $type := include "sd-on-eks.type" . | fromJson -}}
{{- $env := dict
  "RUNTIME_TYPE" .Values.runtime.type
  "RUNTIME_NAME" (.Values.global.runtime | default .Release.Name)
  "API_BASE_URL" (printf "http://127.0.0.1:%v" $type.port)
  "SQS_QUEUE_URL" (required "runtime.queueAgent.sqsQueueUrl is needed" $agent.sqsQueueUrl)
  "SNS_TOPIC_ARN" (required "runtime.queueAgent.snsTopicArn is needed" $agent.snsTopicArn)
  "S3_BUCKET" (required "runtime.queueAgent.s3Bucket is needed" $agent.s3Bucket)
  "AWS_DEFAULT_REGION" (required "global.awsRegion is needed" .Values.global.awsRegion)
  "AWS_EC2_METADATA_DISABLED" "true"
  "DYNAMIC_SD_MODEL" $agent.dynamicModel
  "DRAIN_SECONDS" .Values.runtime.drainSeconds
  "METRICS_PORT" $agent.metricsPort
-}}
{{- if $agent.xray.enabled -}}
{{- $_ := set $env "OTEL_EXPORTER_OTLP_ENDPOINT" $agent.xray.endpoint -}}
{{- end -}}
{{- toJson $env -}}
{{- end -}}

{{/* Files to mount, by name: the type's, and programs of ours; empty where there are none. */}}
{{- define "sd-on-eks.files" -}}
{{- $root := . -}}
{{- $type := include "sd-on-eks.type" . | fromJson -}}
{{- $files := dict -}}
{{- range $name, $content := $type.files -}}{{- $_ := set $files $name (tpl $content $root | trim) -}}{{- end -}}
{{- with include "sd-on-eks.warmUpBody" . -}}
{{- $_ := set $files "warm_up.json" . -}}
{{- $_ := set $files "warm_up.py" ($root.Files.Get "files/warm_up.py") -}}
{{- end -}}
{{- with .Values.runtime.inferenceApi.customNodes -}}
{{- $_ := set $files "custom_nodes.json" (toJson .) -}}
{{- $_ := set $files "custom_nodes.py" ($root.Files.Get "files/custom_nodes.py") -}}
{{- end -}}
{{- if .Values.runtime.deletionCost.enabled -}}
{{- $_ := set $files "deletion_cost.py" ($root.Files.Get "files/deletion_cost.py") -}}
{{- end -}}
{{- if $files -}}{{- toYaml $files -}}{{- end -}}
{{- end -}}

{{- define "sd-on-eks.podAnnotations" -}}
{{- with include "sd-on-eks.files" . }}
checksum/config: {{ sha256sum . }}
{{- end }}
karpenter.sh/do-not-disrupt: {{ .Values.runtime.doNotDisrupt | quote }}
# Only the agent gets the role's credentials; what users' models and nodes run has none.
eks.amazonaws.com/skip-containers: inference-api,warm-up,custom-nodes,deletion-cost
prometheus.io/scrape: "true"
prometheus.io/port: {{ .Values.runtime.queueAgent.metricsPort | quote }}
prometheus.io/path: /metrics
{{- end -}}
