-- What is known across restarts. Only types and clauses that PostgreSQL has too; moments are RFC 3339 text in UTC.
-- `project` is the hexadecimal SHA-256 of a project key, so that the key itself lies nowhere.

-- Projects whose manifests on disk have been read, so that a lost state is rebuilt once, and to its end.
CREATE TABLE project (
    project TEXT NOT NULL PRIMARY KEY,
    recovered_at TEXT NOT NULL
);

CREATE TABLE export (
    project TEXT NOT NULL,
    export_id TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('watching', 'sealing', 'completed', 'failed')),
    remote_status TEXT,
    -- sealing: the exact bytes of the manifest
    manifest TEXT,
    -- completed
    parts BIGINT,
    bytes BIGINT,
    completed_at TEXT,
    -- failed
    failure_kind TEXT,
    failure_cause TEXT,
    failure_code TEXT,
    failed_at TEXT,
    PRIMARY KEY (project, export_id)
);

-- Parts that are durable under their final names, until their export is completed.
CREATE TABLE part (
    project TEXT NOT NULL,
    export_id TEXT NOT NULL,
    number BIGINT NOT NULL,
    file_id TEXT NOT NULL,
    bytes BIGINT NOT NULL,
    declared_bytes BIGINT,
    sha256 TEXT NOT NULL,
    verified_by TEXT NOT NULL,
    PRIMARY KEY (project, export_id, number, file_id),
    FOREIGN KEY (project, export_id) REFERENCES export (project, export_id) ON DELETE CASCADE
);

-- Partials that a clean stop has synced; removed when they are read.
CREATE TABLE partial (
    project TEXT NOT NULL,
    export_id TEXT NOT NULL,
    number BIGINT NOT NULL,
    file_id TEXT NOT NULL,
    bytes BIGINT NOT NULL,
    total_bytes BIGINT NOT NULL,
    etag TEXT NOT NULL,
    PRIMARY KEY (project, export_id, number, file_id),
    FOREIGN KEY (project, export_id) REFERENCES export (project, export_id) ON DELETE CASCADE
);

CREATE TABLE pause (
    scope TEXT NOT NULL PRIMARY KEY,
    until_at TEXT NOT NULL
);

-- The marker of each download directory that has ever been used.
CREATE TABLE marker (
    directory TEXT NOT NULL PRIMARY KEY,
    marker TEXT NOT NULL
);
