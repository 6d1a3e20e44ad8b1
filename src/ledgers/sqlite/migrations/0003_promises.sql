-- A partial's record now says which checksums of the whole file its first answer promised, so that they count for the ranges
-- that continue it. A record of an earlier schema cannot tell, and is dropped: that part is fetched from its start.
DELETE FROM partial;

ALTER TABLE partial ADD COLUMN promised TEXT NOT NULL DEFAULT '[]';
