#!/bin/sh
# First program of a container: says on stderr what it found, then becomes the agent (pid 1).
# stdout belongs to the protocol. Built-in commands only: every process here delays the answer.
set -u

config="${HOME:=/home/agent}/.kimi/config.toml"
credentials="$HOME/.kimi/credentials"
export HOME

# The agent reads its token from the mounted file for each request. A key in the environment would
# be sent instead of it, and would be there for every tool to read.
unset MOONSHOT_API_KEY KIMI_API_KEY KIMI_CODE_API_KEY OPENAI_API_KEY ANTHROPIC_API_KEY \
    ANTHROPIC_AUTH_TOKEN ZENMUX_API_KEY

if [ ! -r "$config" ]; then
    echo "[entrypoint] error: $config is missing or cannot be read" >&2
    echo "[entrypoint] hint: mount the projected config directory read-only at $HOME/.kimi/config" >&2
    printf '%s\n' '{"jsonrpc":"2.0","id":null,"error":{"code":-32603,"message":"the config is missing or cannot be read","data":{"code":"config_invalid","hint":"mount the projected config directory read-only at .kimi/config","retryable":false}}}'
    exit 2
fi

model="none"
while IFS= read -r line || [ -n "$line" ]; do
    case "$line" in
        default_model*=*)
            model="${line#*=}"
            break
            ;;
        "["*) break ;;
    esac
done < "$config"

credential="no credential file"
for file in "$credentials"/*.json; do
    case "$file" in */nanokimi-host.json) continue ;; esac # leads to the host's tools only
    [ -r "$file" ] && credential="credential file ${file##*/}"
done

echo "[entrypoint] config loaded: default model ${model# }, $credential" >&2

# -P: nothing is imported from the workspace, which belongs to strangers.
exec python3 -P -m runner.agent
