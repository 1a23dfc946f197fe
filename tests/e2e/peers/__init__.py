"""Scripted clients of the Plexus protocol, each as strict as the strictest reading of its MUSTs.

`synapse`, `gamma` and `rust_hub` behave as the real clients do; `fake_hub` is a small server
that keeps the protocol, and can be told to break it. All are written from the specification
alone: nothing here imports the product.
"""
