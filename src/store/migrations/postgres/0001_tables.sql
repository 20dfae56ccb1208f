-- Times are microseconds since the Unix epoch. Truths are 0 or 1. Texts compare by their bytes, as in SQLite.

CREATE TABLE nodes (
    node text COLLATE "C" NOT NULL PRIMARY KEY,
    -- How many times it has started.
    incarnation bigint NOT NULL,
    -- Until when its process counts as alive.
    lease_until bigint NOT NULL,
    -- Where other nodes reach it; empty: nowhere.
    address text COLLATE "C" NOT NULL,
    version text COLLATE "C" NOT NULL,
    -- 0: it serves, 1: it drains, 2: it is none that serves, but a command.
    role bigint NOT NULL,
    -- The sessions that it owns, the turns that run or wait in them, and how many more could begin.
    sessions bigint NOT NULL,
    turns bigint NOT NULL,
    room bigint NOT NULL,
    start_time bigint NOT NULL
);

CREATE TABLE sessions (
    -- The number of a deleted session is never used again.
    uid bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    owner text COLLATE "C" NOT NULL,
    -- The id by which the CLI knows it.
    cli_id text COLLATE "C" NOT NULL,
    -- The request that has made it; empty: one without an id.
    request text COLLATE "C" NOT NULL,
    profile text COLLATE "C" NOT NULL,
    model text COLLATE "C" NOT NULL,
    reasoning_effort text COLLATE "C" NOT NULL,
    title text COLLATE "C" NOT NULL,
    working_directory text COLLATE "C" NOT NULL,
    -- JSON, read with the session; they are searched in the table labels.
    labels text COLLATE "C" NOT NULL,
    settings text COLLATE "C" NOT NULL,
    has_message bigint NOT NULL,
    home text COLLATE "C" NOT NULL,
    home_disk text COLLATE "C" NOT NULL,
    usage text COLLATE "C" NOT NULL,
    bytes bigint NOT NULL,
    create_time bigint NOT NULL,
    update_time bigint NOT NULL,
    -- The process that owns it; empty and 0: none.
    node text COLLATE "C" NOT NULL,
    incarnation bigint NOT NULL,
    -- Another one each time that it changes hands: who writes for it has this one.
    fence bigint NOT NULL,
    UNIQUE (tenant, id)
);

-- For pages in each order, and those of one owner.
CREATE INDEX sessions_by_create_time ON sessions (tenant, create_time, id);
CREATE INDEX sessions_by_update_time ON sessions (tenant, update_time, id);
CREATE INDEX sessions_by_owner ON sessions (tenant, owner, create_time, id);

CREATE INDEX sessions_by_cli_id ON sessions (cli_id);

-- Those that a node owns, which are few.
CREATE INDEX sessions_by_node ON sessions (node) WHERE node <> '';

CREATE TABLE labels (
    tenant text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    value text COLLATE "C" NOT NULL,
    -- The session's, so that its label gives pages in order.
    create_time bigint NOT NULL,
    id text COLLATE "C" NOT NULL,
    uid bigint NOT NULL REFERENCES sessions (uid) ON DELETE CASCADE,
    PRIMARY KEY (tenant, name, value, create_time, id)
);

CREATE INDEX labels_by_session ON labels (uid, name);

-- What is stored of a session's folder.
CREATE TABLE folders (
    uid bigint NOT NULL PRIMARY KEY REFERENCES sessions (uid) ON DELETE CASCADE,
    seq bigint NOT NULL,
    chunks bigint NOT NULL,
    bytes bigint NOT NULL,
    manifest bytea NOT NULL
);

CREATE TABLE chunks (
    uid bigint NOT NULL REFERENCES folders (uid) ON DELETE CASCADE,
    seq bigint NOT NULL,
    data bytea NOT NULL,
    PRIMARY KEY (uid, seq)
);

CREATE TABLE credentials (
    uid bigint NOT NULL PRIMARY KEY REFERENCES sessions (uid) ON DELETE CASCADE,
    sealed bytea NOT NULL
);

CREATE TABLE requests (
    tenant text COLLATE "C" NOT NULL,
    -- 0: to make a session; else in the session of this uid.
    scope bigint NOT NULL,
    id text COLLATE "C" NOT NULL,
    fingerprint bigint NOT NULL,
    -- 0: accepted, 1: sent, 2: succeeded, 3: failed.
    state bigint NOT NULL,
    -- The process that has it.
    node text COLLATE "C" NOT NULL,
    incarnation bigint NOT NULL,
    result text COLLATE "C",
    -- What the CLI calls its message, once it has ended.
    message_id text COLLATE "C",
    -- What is to be sent, where that is not the caller's to send again.
    prompt bytea,
    create_time bigint NOT NULL,
    update_time bigint NOT NULL,
    PRIMARY KEY (scope, tenant, id)
);

CREATE INDEX requests_by_update_time ON requests (update_time);

-- Those that are not ended, which are few.
CREATE INDEX requests_open ON requests (node, incarnation) WHERE state < 2;

-- They are compressed when they come.
ALTER TABLE chunks ALTER COLUMN data SET STORAGE EXTERNAL;

-- Folders of sessions that have gone to another disk, or are deleted: whoever has the disk removes them.
CREATE TABLE copies (
    disk text COLLATE "C" NOT NULL,
    home text COLLATE "C" NOT NULL,
    cli_id text COLLATE "C" NOT NULL,
    PRIMARY KEY (disk, home, cli_id)
);
