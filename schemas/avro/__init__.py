"""The event catalogue: one Avro schema per record, and the lock file that gives each committed version its id."""
