#!/bin/sh
# From a CSV to a forecast with curl: examples/curl.sh [URL] [KEY FILE] [CSV] [PREDICTION LENGTH]
set -eu
url=${1:-http://127.0.0.1:8000}
key=$(cat "${2:-.temper/api_key}")
csv=${3:-examples/air_passengers.csv}
steps=${4:-12}

field() { sed -n 's/.*"'"$1"'":"\([^"]*\)".*/\1/p'; }
call() { curl -sS -H "Authorization: Bearer $key" "$@"; }

answer=$(call "$url/v1/jobs" -F "file=@$csv" -F "prediction_length=$steps" \
    -F 'hyperparameters={"max_epochs": 3, "learning_rate": 0.001}')
job=$(printf '%s' "$answer" | sed -n 's/^{"id":"\([^"]*\)".*/\1/p')
[ -n "$job" ] || { printf '%s\n' "$answer" >&2; exit 1; }
echo "job $job" >&2

while :; do
    answer=$(call "$url/v1/jobs/$job")
    status=$(printf '%s' "$answer" | sed -n 's/.*"status":"\([a-z]*\)","pause.*/\1/p')
    case $status in
        succeeded) break ;;
        failed | cancelled) printf '%s\n' "$answer" >&2; exit 1 ;;
    esac
    sleep 1
done

model=$(printf '%s' "$answer" | field fine_tuned_model)
printf '%s' "$answer" | field sentence >&2
call "$url/v1/forecast" -H "Accept: text/csv" -H "Content-Type: application/json" -d "{\"model\": \"$model\", \"levels\": [80]}"
