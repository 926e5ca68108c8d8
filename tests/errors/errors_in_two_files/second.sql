INSERT INTO out_rows SELECT id, page FROM evnts;
