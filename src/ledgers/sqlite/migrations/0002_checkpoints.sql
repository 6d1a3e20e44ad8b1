-- A partial's record now says what its bytes are, so that it may outlive a crash: whoever continues the file hashes those
-- bytes first. A record of the first schema cannot tell, and is dropped: that part is fetched from its start.
DROP TABLE partial;

CREATE TABLE partial (
    project TEXT NOT NULL,
    export_id TEXT NOT NULL,
    number BIGINT NOT NULL,
    file_id TEXT NOT NULL,
    bytes BIGINT NOT NULL,
    sha256 TEXT NOT NULL,
    total_bytes BIGINT NOT NULL,
    etag TEXT NOT NULL,
    PRIMARY KEY (project, export_id, number, file_id),
    FOREIGN KEY (project, export_id) REFERENCES export (project, export_id) ON DELETE CASCADE
);
