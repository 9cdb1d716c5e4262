"""What is kept between builds: blobs by digest, layers, images and their names, cache records, unpacked trees."""
