CREATE VIEW events AS SELECT id, page FROM out_rows;
