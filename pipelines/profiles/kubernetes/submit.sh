#!/usr/bin/env bash
# Start Snakemake's job script $1 as a Job of Kubernetes and print its name. Settings, by environment variables:
#   DSP_MOUNT     where the volume is mounted, here and in the pods; the repository lies below
#   DSP_CLAIM     name of its persistent volume claim (default dsp)
#   DSP_IMAGE     with the Python that the environments were made with (default python:3.11)
#   DSP_CPUS, DSP_MEMORY, DSP_GPUS    of a pod (default 4, 16Gi, 0)
set -euo pipefail
: "${DSP_MOUNT:?set DSP_MOUNT to the path at which the volume with the repository is mounted}"

name=dsp-$(od -An -N8 -tx8 /dev/urandom | tr -d ' ')
kubectl create -f - >&2 <<JOB
apiVersion: batch/v1
kind: Job
metadata: {name: $name, labels: {app: dsp-plugin}}
spec:
  backoffLimit: 0
  ttlSecondsAfterFinished: 86400
  template:
    spec:
      restartPolicy: Never
      containers:
        - name: run
          image: ${DSP_IMAGE:-python:3.11}
          workingDir: $PWD
          command: [bash, $1]
          resources:
            requests: {cpu: "${DSP_CPUS:-4}", memory: ${DSP_MEMORY:-16Gi}}
            limits: {nvidia.com/gpu: "${DSP_GPUS:-0}"}
          volumeMounts: [{name: dsp, mountPath: $DSP_MOUNT}]
      volumes: [{name: dsp, persistentVolumeClaim: {claimName: ${DSP_CLAIM:-dsp}}}]
JOB
echo "$name"
