-- Nothing here yet.
/* Nor here. */
