//! Cores, processes, network namespaces of this machine.
