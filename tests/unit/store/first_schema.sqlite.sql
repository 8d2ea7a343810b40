-- The tables as nanokimi made them before there were migrations.
CREATE TABLE calls (
    seq INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    at FLOAT NOT NULL,
    day INTEGER NOT NULL,
    group_id TEXT NOT NULL,
    key_name TEXT NOT NULL,
    route TEXT NOT NULL,
    provider TEXT NOT NULL,
    model TEXT NOT NULL,
    input_tokens BIGINT,
    cached_tokens BIGINT,
    cache_write_tokens BIGINT,
    output_tokens BIGINT,
    reasoning_tokens BIGINT,
    price JSON,
    cost_nano BIGINT,
    first_byte_ms FLOAT,
    total_ms FLOAT NOT NULL,
    outcome TEXT NOT NULL,
    fallback BOOLEAN NOT NULL,
    attempts INTEGER NOT NULL
);
CREATE INDEX calls_by_group ON calls (group_id, at);
CREATE INDEX calls_by_key ON calls (key_name, at);
CREATE INDEX calls_by_time ON calls (at);
CREATE TABLE events (
    id BIGINT NOT NULL,
    group_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    turn_id TEXT,
    message_ids JSON NOT NULL,
    data JSON NOT NULL,
    PRIMARY KEY (id)
);
CREATE INDEX events_by_group ON events (group_id, id);
CREATE TABLE failures (
    seq INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    at FLOAT NOT NULL,
    group_id TEXT NOT NULL,
    key_name TEXT NOT NULL,
    provider TEXT NOT NULL,
    model TEXT NOT NULL,
    type TEXT NOT NULL
);
CREATE INDEX failures_by_time ON failures (at);
CREATE TABLE groups (
    id TEXT NOT NULL,
    folder TEXT NOT NULL,
    session_id TEXT NOT NULL,
    generation INTEGER NOT NULL,
    created_at FLOAT NOT NULL,
    PRIMARY KEY (id),
    UNIQUE (folder)
);
CREATE TABLE messages (
    seq INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL,
    group_id TEXT NOT NULL,
    channel TEXT NOT NULL,
    external_id TEXT,
    sender TEXT NOT NULL,
    text TEXT NOT NULL,
    wakes BOOLEAN NOT NULL,
    state TEXT NOT NULL,
    turn_id TEXT,
    metadata JSON NOT NULL,
    created_at FLOAT NOT NULL,
    UNIQUE (group_id, channel, external_id),
    UNIQUE (id)
);
CREATE INDEX messages_by_group ON messages (group_id, state, seq);
CREATE INDEX messages_by_turn ON messages (turn_id);
CREATE TABLE meta (
    "key" TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY ("key")
);
CREATE TABLE turns (
    id TEXT NOT NULL,
    group_id TEXT NOT NULL,
    state TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    text TEXT NOT NULL,
    error JSON,
    usage JSON,
    started_at FLOAT NOT NULL,
    finished_at FLOAT,
    PRIMARY KEY (id)
);
CREATE INDEX turns_by_group ON turns (group_id, state);
INSERT INTO meta VALUES ('schema_version', '1');
INSERT INTO meta VALUES ('install_id', '0123456789');
