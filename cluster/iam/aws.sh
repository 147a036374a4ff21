#!/usr/bin/env bash
# The two roles of cluster/gpu.yaml, once an account. Whoever runs it needs the right to make roles.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
if grep -q MY-BUCKET aws-worker.json; then
  echo "aws.sh: write your bucket's name into cluster/iam/aws-worker.json (MY-BUCKET)" >&2
  exit 1
fi

trust='{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}]}'
for name in head worker; do
  aws iam create-role --role-name "raylab-$name" --assume-role-policy-document "$trust"
  aws iam put-role-policy --role-name "raylab-$name" --policy-name bucket --policy-document file://aws-worker.json
  aws iam create-instance-profile --instance-profile-name "raylab-$name"
  aws iam add-role-to-instance-profile --instance-profile-name "raylab-$name" --role-name "raylab-$name"
done
aws iam put-role-policy --role-name raylab-head --policy-name machines --policy-document file://aws-head.json
aws iam create-service-linked-role --aws-service-name spot.amazonaws.com || echo "spot machines were in use before: fine"
