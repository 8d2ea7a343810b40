"""The ``config.toml`` that ``nanokimi init`` writes: complete, commented, ready for a login.

A line that begins with ``#`` and no space is a setting switched off: at its default, or an example.
Tests load the text as it is and with all of those switched on, so the comments cannot rot.
"""

from __future__ import annotations


def render_template() -> str:
    """The text, ending in a newline."""
    return _TEXT


_TEXT = """\
# nanokimi: the one file to edit. Changes are taken up while it runs: a good one counts for the
# next sandbox, a bad one is reported and the old settings stay.
#
# Lines that begin with "#" and no space are switched off: defaults and examples. Durations are
# "90s", "30m", "2h" or seconds; sizes "512m", "1g" or bytes. A secret may be written "env:NAME"
# or "file:PATH". The environment variable NANOKIMI_<TABLE>__<KEY> overrides a key,
# for example NANOKIMI_HOST__MAX_CONTAINERS=10.

default_model = "kimi-code"     # a name from [models.*] below, never the provider's own id
default_thinking = false        # let the model think before it answers
default_yolo = true             # tools run without asking: the sandbox is the fence

# --- Models: an alias of yours, and what it is called where it comes from --------------------

[models.kimi-code]
provider = "managed:kimi-code"  # a name from [providers.*]
model = "kimi-for-coding"       # the provider's id: kimi-for-coding, k3, k3-256k
max_context_size = 200000       # tokens
capabilities = ["thinking"]     # image_in, video_in, thinking, always_thinking

# Keys for Kimi Code come from https://platform.kimi.com/ (manual: https://platform.kimi.com/docs).
# Instead of a login, give the provider below api_key = "env:KIMI_API_KEY" and no oauth.
#
# An API key of the open platform instead (https://platform.moonshot.cn/): switch this on and set
# default_model = "kimi-key".
#[models.kimi-key]
#provider = "moonshot"
#model = "kimi-k2.6"            # kimi-k3, kimi-k2.7-code, kimi-k2.6
#max_context_size = 262144
#capabilities = ["thinking", "image_in"]

# Anything else that speaks the OpenAI chat completions format.
#[models.local]
#provider = "local"
#model = "qwen3-coder"
#max_context_size = 131072
#capabilities = []

# --- Providers: where models are, and how to be let in ---------------------------------------

# A Kimi Code subscription: run `nanokimi login` once.
[providers."managed:kimi-code"]
type = "kimi"                   # kimi, openai, openai_legacy, anthropic (gateway only)
base_url = "https://api.kimi.com/coding/v1"
api_key = ""                    # stays empty: it is either a login or a key
# The login is kept in credentials/kimi-code.json. Another login server: add host = "https://…".
oauth = { storage = "file", key = "oauth/kimi-code" }
#custom_headers = { X-Team = "chat" }  # sent with each request

#[providers.moonshot]
#type = "kimi"
#base_url = "https://api.moonshot.cn/v1"
#api_key = "env:MOONSHOT_API_KEY"

#[providers.local]
#type = "openai"
#base_url = "http://127.0.0.1:8000/v1"
#api_key = "file:credentials/local-key"  # paths are relative to this file
#env = {}                       # a key of kimi-cli; read, not used

# --- The agent's loop ------------------------------------------------------------------------

[loop_control]
max_steps_per_turn = 100        # model calls in one turn
max_retries_per_step = 3        # after a failure that may pass; newer name, counting the first try:
#max_attempts_per_step = 4
max_ralph_iterations = 0        # extra rounds after each message; -1 is without limit
reserved_context_size = 50000   # tokens kept free; less than that left: the talk is summed up

[services]
#moonshot_search = {}           # { base_url = "https://api.kimi.com/coding/v1/search" }
#moonshot_fetch = {}            # a service of kimi-cli: read, not used

# --- The host --------------------------------------------------------------------------------

[host]
#max_containers = 5             # sandboxes at one time; groups beyond that wait their turn
#idle_timeout = "30m"           # a sandbox without work ends after this
#turn_timeout = "30m"           # a turn that takes longer is ended
#max_attempts = 5               # tries of one turn before it is reported as failed
#trigger = "@kimi"              # a message with this text wakes the agent; "" answers everything
#max_queue = 100                # messages that may wait in one group
#auto_create = true             # a group comes to life with its first message
#grace = "20s"                  # what running turns get when the host is stopped
#steer = true                   # a message during a turn joins it; false: it waits for the next
#max_hold = "1d"                # how long messages wait for a model that cannot be reached
#allowed_groups = []            # ids or patterns ("team-*") of those served; [] is every group

[sandbox]
#backend = "auto"               # docker, process, or auto: docker when an engine answers
#image = "nanokimi-agent"       # made by `nanokimi build`
#network = "isolated"           # no network, the model through a socket; or "open"
#memory = "1g"
#cpus = 1.0
#pids = 256                     # processes and threads
#disk = "10g"                   # what workspace and sessions of a group may take
#mounts_allowlist = ["/srv"]    # default: []. What groups may mount; "/path:rw" also for writing
#start_timeout = "60s"          # a sandbox that is not ready by then is given up
#stop_grace = "5s"              # between the polite stop and the kill

[server]
#listen = "127.0.0.1:8420"      # the HTTP API
#public_url = ""                # how others reach it, when a proxy stands before it

[store]
#url = ""                       # "" is SQLite in this directory; or postgresql://…
#keep_messages = "90d"          # how long messages, turns and deliveries that ended are kept
#keep_files = "30d"             # and files that agents sent

[gateway]
#keys = []                      # keys that other clients use the model API with: secrets, or tables
# like { name = "ci", key = "env:CI", models = ["kimi-code"], budget = {…} }
#thinking_repair = true         # put lost reasoning back into the history
#cache = "auto"                 # auto, explicit, off
#cache_hosts = ["api.moonshot.cn", "api.moonshot.ai"]   # where "explicit" makes caches
#keep_usage = "400d"            # how long the ledger of calls is kept; a month at least
#max_retries = 3                # more tries with the same key, while an answer has not begun
#backoff_factor = 2.0           # each wait between them is so much longer than the one before
#deadline = "10m"               # over all tries, keys and models, until an answer begins
#rollout = 100                  # percent of the groups whose routes begin with Kimi

# What may be spent in a day and in a month of UTC: US dollars (day, month) or, also where no price
# is known, tokens (day_tokens, month_tokens). Nothing in a budget is without bound.
[gateway.budgets]
#group = {}                     # each group: { day_tokens = 20000000, month = 50.0 }
#key = {}                       # each key that has no budget of its own
#groups = {}                    # of single groups: { "team@example.com" = { month = 20.0 } }

[gateway.targets]
#success_rate = 0.9             # `nanokimi monitor` warns below or above these
#avg_response_time = "5s"
#cost_per_task = 0.001          # US dollars for one answered call
#fallback_rate = 0.1
#token_efficiency = 0.8         # tokens of calls that succeeded, of all tokens

# Who does what in the built-in routes. A role whose model has no key is left out.
[gateway.roles]
#primary = ""                   # "" is default_model
#validation = "claude"
#fallback = "deepseek"
#fast = "groq"

# --- People, tools, delivery ----------------------------------------------------------------

# Who may do what, by the sender's id: owner, admin, member, blocked. A group may have its own.
[people]
#default_role = "member"        # "blocked" answers only people who are named
#roles = {}                     # { "tg:4711" = "owner" }

# Answers that nanokimi sends by itself, signed, to the URL of a message, of its group, or this one.
[delivery]
#webhook = ""
#max_chars = 0                  # longer texts are split at paragraphs; 0 never
#timeout = "10s"                # of one try
#max_age = "1d"                 # after that a delivery is given up, and shown as rejected

# What agents may ask the host for. Each takes enabled, per_turn and role: the least that may.
[tools.send_message]
#enabled = true
#per_turn = 20
#role = "member"

[tools.send_file]
#max_size = "20m"               # of one file, sent or received

[tools.ask_user]
#timeout = "10m"                # how long an answer is waited for

[tools.schedule_task]
#max_tasks = 20                 # in one group
#min_interval = "5m"            # a task runs no more often
#timezone = "UTC"               # of tasks that name none
#missed = "once"                # after a downtime: once, or skip

[tools.web_search]
#engine = "auto"                # moonshot, duckduckgo; auto takes moonshot when services has it
#max_results = 5

[tools.web_fetch]
#max_size = "5m"
#timeout = "30s"
#allow_private = false          # true lets agents reach addresses inside your network

[tools.register_group]
#role = "admin"                 # and only in groups with admin = true

[agent]
#engine = "native"              # or the command of an ACP agent: ["kimi", "acp"]

# --- One group: what is left out is as everywhere --------------------------------------------

#[groups."team@example.com"]
#trigger = ""
#model = "kimi-code"
#engine = "native"
#network = "open"
#admin = false                  # may this group manage others
#mounts = [{ source = "/srv", name = "shared", mode = "ro" }]  # read there as /mnt/shared
#limits = { memory = "2g", cpus = 2.0, pids = 512, disk = "20g" }
#roles = { "tg:42" = "admin" }  # in this group, before those of [people]
#tools = { web_search = false } # switch tools off or on for this group
#webhook = "https://bot.example.com/answers"  # default: that of [delivery]
#max_chars = 4096

# --- The gateway's models: entries with one model_name form a pool ---------------------------

#[[model_list]]
#model_name = "deepseek"
#model = "deepseek/deepseek-chat"  # vendor/model
#provider = ""                  # or a name from [providers.*], which lends its URL and key
#enabled = true
#api_key = "env:DEEPSEEK_API_KEY"
#api_keys = ["env:DEEPSEEK_API_KEY_2"]  # default: []. More keys, balanced; each rests by itself
#auth = "key"                   # or "oauth": the login of the provider
#api_base = ""                  # "" is the vendor's own
#format = "auto"                # how it speaks: openai, anthropic
#proxy = ""                     # an HTTP proxy for this entry: "http://localhost:7890"
#user_agent = ""                # "" is nanokimi's own
#custom_headers = {}
#extra_body = {}                # more fields of each request
#fallbacks = ["kimi-code"]      # model_name or alias to try next
#rpm = 100                      # default: no limit. Requests a minute for each key
#request_timeout = "5m"         # until the first byte of an answer
#cooldown = "60s"               # how long a key rests after a failure; doubled when it repeats
#thinking_level = ""            # off, low, medium, high, max; "" leaves it to the request
#temperature = 1.0              # default: the vendor's, when the request names none
#max_tokens = 8192              # default: no limit. At most this many in an answer
#max_tokens_field = ""          # max_tokens or max_completion_tokens; "" is the usual one
#streaming = true               # false: it cannot stream, whatever the client asked for

# Asked for as the model "route:fast". FAST, BUILD, DOUBLE-CHECK and SURGICAL_EDIT are built in.
#[routes.fast]
#chain = ["kimi-code", "deepseek"]
#temperature = 0.3
#max_tokens = 4000
#prompt = "Answer briefly."
#rollout = 100                  # default: of [gateway]
"""
