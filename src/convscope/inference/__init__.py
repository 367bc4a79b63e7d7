"""Prediction without torch, and the model file it runs on."""
