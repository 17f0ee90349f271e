"""Matrix products: packing, micro-kernel, AMX tiles."""
