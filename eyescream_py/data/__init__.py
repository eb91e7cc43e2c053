"""Pictures become uint8 tensors on the device, and batches of them."""
