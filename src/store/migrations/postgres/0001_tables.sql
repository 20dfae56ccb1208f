-- Times are microseconds since the Unix epoch. Truths are 0 or 1. Texts compare by their bytes, as in SQLite.

CREATE TABLE nodes (
    node text COLLATE "C" NOT NULL PRIMARY KEY,
    -- How many times it has started.
    incarnation bigint NOT NULL,
    -- Until when its process counts as alive.
    lease_until bigint NOT NULL,
    version text COLLATE "C" NOT NULL,
    start_time bigint NOT NULL
);

CREATE TABLE sessions (
    -- The number of a deleted session is never used again.
    uid bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    owner text COLLATE "C" NOT NULL,
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
    home_node text COLLATE "C" NOT NULL,
    usage text COLLATE "C" NOT NULL,
    bytes bigint NOT NULL,
    create_time bigint NOT NULL,
    update_time bigint NOT NULL,
    UNIQUE (tenant, id)
);

-- For pages in each order, and those of one owner.
CREATE INDEX sessions_by_create_time ON sessions (tenant, create_time, id);
CREATE INDEX sessions_by_update_time ON sessions (tenant, update_time, id);
CREATE INDEX sessions_by_owner ON sessions (tenant, owner, create_time, id);

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
    update_time bigint NOT NULL,
    PRIMARY KEY (scope, tenant, id)
);

CREATE INDEX requests_by_update_time ON requests (update_time);

-- They are compressed when they come.
ALTER TABLE chunks ALTER COLUMN data SET STORAGE EXTERNAL;
