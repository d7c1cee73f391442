"""Core room: sparse diff vectors — train, project, fix the mask, pack, apply, revert, serve.

Knows torch and safetensors, and neither fairseq nor Transformers.
"""
