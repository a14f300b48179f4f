"""The live stack: brokers and result backends, one namespace a run, nothing left behind."""
