"""Generators and the discriminator."""
