-- Times are microseconds since the Unix epoch. Truths are 0 or 1.

-- "CpGr": whose file this is.
PRAGMA application_id = 1131431794;

CREATE TABLE nodes (
    node TEXT NOT NULL PRIMARY KEY,
    -- How many times it has started.
    incarnation INTEGER NOT NULL,
    -- Until when its process counts as alive.
    lease_until INTEGER NOT NULL,
    -- Where other nodes reach it; empty: nowhere.
    address TEXT NOT NULL,
    version TEXT NOT NULL,
    -- 0: it serves, 1: it drains, 2: it is none that serves, but a command.
    role INTEGER NOT NULL,
    -- The sessions that it owns, the turns that run or wait in them, and how many more could begin.
    sessions INTEGER NOT NULL,
    turns INTEGER NOT NULL,
    room INTEGER NOT NULL,
    start_time INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE sessions (
    -- AUTOINCREMENT: the number of a deleted session is never used again.
    uid INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    tenant TEXT NOT NULL,
    id TEXT NOT NULL,
    owner TEXT NOT NULL,
    -- The id by which the CLI knows it.
    cli_id TEXT NOT NULL,
    -- The request that has made it; empty: one without an id.
    request TEXT NOT NULL,
    profile TEXT NOT NULL,
    model TEXT NOT NULL,
    reasoning_effort TEXT NOT NULL,
    title TEXT NOT NULL,
    working_directory TEXT NOT NULL,
    -- JSON, read with the session; they are searched in the table labels.
    labels TEXT NOT NULL,
    settings TEXT NOT NULL,
    has_message INTEGER NOT NULL,
    home TEXT NOT NULL,
    home_disk TEXT NOT NULL,
    usage TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    create_time INTEGER NOT NULL,
    update_time INTEGER NOT NULL,
    -- The process that owns it; empty and 0: none.
    node TEXT NOT NULL,
    incarnation INTEGER NOT NULL,
    -- Another one each time that it changes hands: who writes for it has this one.
    fence INTEGER NOT NULL,
    UNIQUE (tenant, id)
) STRICT;

-- For pages in each order, and those of one owner.
CREATE INDEX sessions_by_create_time ON sessions (tenant, create_time, id);
CREATE INDEX sessions_by_update_time ON sessions (tenant, update_time, id);
CREATE INDEX sessions_by_owner ON sessions (tenant, owner, create_time, id);

CREATE INDEX sessions_by_cli_id ON sessions (cli_id);

-- Those that a node owns, which are few.
CREATE INDEX sessions_by_node ON sessions (node) WHERE node <> '';

CREATE TABLE labels (
    tenant TEXT NOT NULL,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    -- The session's, so that its label gives pages in order.
    create_time INTEGER NOT NULL,
    id TEXT NOT NULL,
    uid INTEGER NOT NULL REFERENCES sessions (uid) ON DELETE CASCADE,
    PRIMARY KEY (tenant, name, value, create_time, id)
) STRICT, WITHOUT ROWID;

CREATE INDEX labels_by_session ON labels (uid, name);

-- What is stored of a session's folder.
CREATE TABLE folders (
    uid INTEGER NOT NULL PRIMARY KEY REFERENCES sessions (uid) ON DELETE CASCADE,
    seq INTEGER NOT NULL,
    chunks INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    manifest BLOB NOT NULL
) STRICT;

CREATE TABLE chunks (
    uid INTEGER NOT NULL REFERENCES folders (uid) ON DELETE CASCADE,
    seq INTEGER NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (uid, seq)
) STRICT;

CREATE TABLE credentials (
    uid INTEGER NOT NULL PRIMARY KEY REFERENCES sessions (uid) ON DELETE CASCADE,
    sealed BLOB NOT NULL
) STRICT;

CREATE TABLE requests (
    tenant TEXT NOT NULL,
    -- 0: to make a session; else in the session of this uid.
    scope INTEGER NOT NULL,
    id TEXT NOT NULL,
    fingerprint INTEGER NOT NULL,
    -- 0: accepted, 1: sent, 2: succeeded, 3: failed.
    state INTEGER NOT NULL,
    -- The process that has it.
    node TEXT NOT NULL,
    incarnation INTEGER NOT NULL,
    result TEXT,
    -- What the CLI calls its message, once it has ended.
    message_id TEXT,
    -- What is to be sent, where that is not the caller's to send again.
    prompt BLOB,
    create_time INTEGER NOT NULL,
    update_time INTEGER NOT NULL,
    PRIMARY KEY (scope, tenant, id)
) STRICT;

CREATE INDEX requests_by_update_time ON requests (update_time);

-- Those that are not ended, which are few.
CREATE INDEX requests_open ON requests (node, incarnation) WHERE state < 2;

-- Folders of sessions that have gone to another disk, or are deleted: whoever has the disk removes them.
CREATE TABLE copies (
    disk TEXT NOT NULL,
    home TEXT NOT NULL,
    cli_id TEXT NOT NULL,
    PRIMARY KEY (disk, home, cli_id)
) STRICT, WITHOUT ROWID;
