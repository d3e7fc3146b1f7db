//! LeRobot datasets in, training batches out.
